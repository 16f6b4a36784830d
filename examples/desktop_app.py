"""A small window to talk about an image: drop, paste or open one, ask, stop.

pip install '.[cpu,desktop]', in the clone
python examples/desktop_app.py BUNDLE [IMAGE]

A starting point to copy. A worker thread owns the model and does everything that takes time; the window communicates
with it through signals. Only `Session.cancel()` is called directly across threads, for which it is made.
"""

from __future__ import annotations

import contextlib
import signal
import sys

from PySide6.QtCore import QBuffer, QIODevice, QMimeData, QObject, QSize, Qt, QThread, Signal, Slot
from PySide6.QtGui import QAction, QImage, QImageReader, QKeySequence, QPainter, QPainterPath, QPixmap
from PySide6.QtWidgets import (
    QApplication,
    QFileDialog,
    QFrame,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QMainWindow,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

import edge_llava

STYLE = """
QWidget#page { background: #f4f5f7; }
QLabel, QLineEdit, QPushButton { color: #1f2430; font-size: 14px; }
QLabel#title { font-size: 17px; font-weight: 600; }
QLabel#status { color: #6b7280; font-size: 12px; }
QLabel#image { background: #ffffff; border: 1px solid #e2e5ea; border-radius: 14px; }
QLabel#image[empty="true"] { background: #fafbfc; border: 2px dashed #c3c9d4; color: #8a919e; }
QFrame#conversation { background: #ffffff; border: 1px solid #e2e5ea; border-radius: 14px; }
QScrollArea, QWidget#bubbles { background: transparent; border: none; }
QFrame[role] { border-radius: 14px; background: #eef0f4; }
QFrame[role="question"] { background: #2f6fed; }
QFrame[role="question"] QLabel { color: #ffffff; }
QFrame[role="error"] { background: #fdecec; }
QFrame[role="error"] QLabel { color: #a12622; }
QLineEdit, QPushButton { background: #ffffff; border: 1px solid #d5d9e0; border-radius: 10px; padding: 9px 14px; }
QLineEdit:focus { border-color: #2f6fed; }
QPushButton:hover { background: #f0f2f5; }
QPushButton#send { background: #2f6fed; border-color: #2f6fed; color: #ffffff; }
QPushButton#stop { background: #fdecec; border-color: #f3c5c3; color: #a12622; }
"""


class Worker(QObject):
    """Owns the model. Its slots run on the worker thread, one after the other."""

    opened = Signal(str, str)  # the bundle's name, and its notice or nothing
    not_opened = Signal(str)  # why
    token = Signal(str)  # text to append to the answer
    finished = Signal(str)  # a summary line
    failed = Signal(str)  # the error message

    def __init__(self) -> None:
        super().__init__()
        self._model: edge_llava.LlavaModel | None = None
        self._chat: edge_llava.Session | None = None
        self.is_stopped = False

    @Slot(str)
    def open(self, bundle: str) -> None:
        try:
            self._model = edge_llava.load(bundle)
            self._chat = self._model.session(edge_llava.SamplingOptions(temperature=0.2))
            self.opened.emit(self._model.bundle.name, self._model.manifest.notice or "")
        except edge_llava.EdgeLlavaError as error:
            self.not_opened.emit(str(error))

    @Slot(str, object)
    def ask(self, question: str, image: str | bytes | None) -> None:
        """Asks a question. `image` is a path or the bytes of an image file, given with the first question about it."""
        try:
            answer = self._chat.ask(question, image=image)
            if self.is_stopped:  # stop() came before ask(), which discards earlier cancels
                self._chat.cancel()
            for token in answer:
                self.token.emit(token.text)
            self.finished.emit(describe(self._chat.timings))
        except (edge_llava.EdgeLlavaError, ValueError) as error:  # ValueError: pasted unpaired surrogates
            self.failed.emit(str(error))

    @Slot(object)
    def begin(self, image: str | bytes) -> None:
        """Begins a conversation about another image, which is read while the question is typed."""
        if self._chat is not None:
            self._chat.clear()
            with contextlib.suppress(edge_llava.EdgeLlavaError):  # ask() will say why
                self._chat.prepare(image)

    @Slot()
    def close(self) -> None:
        if self._model is not None:
            self._model.close()

    def stop(self) -> None:
        """Stops the answer, even one that has not started. The window calls this on its own thread."""
        self.is_stopped = True
        if self._chat is not None:
            self._chat.cancel()


def describe(timings: edge_llava.Timings) -> str:
    parts = [f"{timings.decode_tokens} tokens"]
    if timings.decode_tokens > 1 and timings.decode_s:
        parts.append(f"{(timings.decode_tokens - 1) / timings.decode_s:.0f} tokens/s")
    parts.append(f"first word after {timings.ttft_s:.2f} s")
    if timings.cached_tokens:
        parts.append(f"{timings.cached_tokens} positions reused")
    return "  ·  ".join(parts)


class ImageView(QLabel):
    """Shows the image, or a hint how to add one."""

    def __init__(self) -> None:
        super().__init__("Drop an image here,\npaste one, or open a file")
        self.setObjectName("image")
        self.setProperty("empty", True)
        self.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.setMinimumSize(260, 220)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Ignored)
        self._image = QImage()

    def show_image(self, image: QImage) -> None:
        self._image = image
        if image.isNull():
            self.setText("No preview of this image")
        self.setProperty("empty", image.isNull())
        self.style().polish(self)
        self._fit()

    def resizeEvent(self, event) -> None:
        super().resizeEvent(event)
        self._fit()

    def _fit(self) -> None:
        """Shows the image as large as possible, with rounded corners."""
        if self._image.isNull():
            return
        ratio = self.devicePixelRatioF()
        room = (self.size() - QSize(28, 28)) * ratio
        scaled = self._image.scaled(
            room, Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.SmoothTransformation
        )
        pixmap = QPixmap(scaled.size())
        pixmap.fill(Qt.GlobalColor.transparent)
        corners = QPainterPath()
        corners.addRoundedRect(0, 0, scaled.width(), scaled.height(), 10 * ratio, 10 * ratio)
        with QPainter(pixmap) as painter:
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            painter.setClipPath(corners)
            painter.drawImage(0, 0, scaled)
        pixmap.setDevicePixelRatio(ratio)
        self.setPixmap(pixmap)


class Bubble(QFrame):
    """One message, only as wide as its text."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self.setProperty("role", role)
        self._label = QLabel(wordWrap=True, textFormat=Qt.TextFormat.PlainText)
        self._label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        inside = QHBoxLayout(self)
        inside.setContentsMargins(14, 9, 14, 10)
        inside.addWidget(self._label)

    def append(self, more: str, room: int) -> None:
        """Appends text; no line is wider than `room` pixels."""
        self._label.setText(self._label.text() + more)
        self._label.ensurePolished()
        metrics = self._label.fontMetrics()
        longest = max(metrics.horizontalAdvance(line) for line in self._label.text().split("\n"))
        self._label.setFixedWidth(min(longest + 2, room))


class Conversation(QFrame):
    """Shows questions on the right and answers on the left, and scrolls to the last one."""

    def __init__(self) -> None:
        super().__init__(objectName="conversation")
        inside = QWidget(objectName="bubbles")
        self._bubbles = QVBoxLayout(inside)
        self._bubbles.setSpacing(10)
        self._bubbles.addStretch(1)
        scroll = QScrollArea(widgetResizable=True, horizontalScrollBarPolicy=Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        scroll.setWidget(inside)
        bar = scroll.verticalScrollBar()
        bar.rangeChanged.connect(lambda _, end: bar.setValue(end))
        QVBoxLayout(self).addWidget(scroll)

    def add(self, role: str, text: str = "") -> Bubble:
        """Adds a bubble. `role` is "question", "answer" or "error"."""
        bubble = Bubble(role)
        side = Qt.AlignmentFlag.AlignRight if role == "question" else Qt.AlignmentFlag.AlignLeft
        self._bubbles.addWidget(bubble, 0, side)
        bubble.append(text, self.room)
        return bubble

    @property
    def room(self) -> int:
        """The maximum width of a line of text, in pixels."""
        return int(self.width() * 0.75)

    def clear(self) -> None:
        while self._bubbles.count() > 1:  # the stretch stays
            self._bubbles.takeAt(1).widget().setParent(None)

    def resizeEvent(self, event) -> None:
        super().resizeEvent(event)
        for bubble in self.findChildren(Bubble):
            bubble.append("", self.room)


class Window(QMainWindow):
    """The window with the image and the conversation about it."""

    bundle_named = Signal(str)
    question_asked = Signal(str, object)
    image_changed = Signal(object)
    closing = Signal()

    def __init__(self, bundle: str) -> None:
        super().__init__()
        self.setWindowTitle("edge-llava")
        self.setAcceptDrops(True)
        self._new_image: str | bytes | None = None  # not asked about yet
        self._answer: Bubble | None = None  # being written
        self._is_asked = self._ignores_answer = False  # the answer being computed is about the previous image
        self._build()
        self._start_worker()
        self.bundle_named.emit(bundle)

    def _build(self) -> None:
        self.title = QLabel("Opening the model ...", objectName="title")
        self.notice = QLabel(objectName="status", wordWrap=True, visible=False)
        self.image_view, self.conversation = ImageView(), Conversation()
        self.status = QLabel(objectName="status")
        self.question = QLineEdit(placeholderText="Ask about the image")
        self.question.returnPressed.connect(self.send)
        self.send_button = QPushButton("Send", objectName="send", clicked=self.send)
        self.stop_button = QPushButton("Stop", objectName="stop", clicked=self.stop, visible=False)
        for widget in (self.question, self.send_button):
            widget.setEnabled(False)  # until the model is open
        line = QHBoxLayout()
        for widget in (self.question, self.send_button, self.stop_button):
            line.addWidget(widget)
        left, right = QVBoxLayout(), QVBoxLayout()
        left.addWidget(self.title)
        left.addWidget(self.notice)
        left.addWidget(self.image_view, 1)
        left.addWidget(QPushButton("Open an image ...", clicked=self.open_file))
        right.addWidget(self.conversation, 1)
        right.addLayout(line)
        right.addWidget(self.status)
        page = QWidget(objectName="page")
        columns = QHBoxLayout(page)
        columns.setContentsMargins(20, 18, 20, 12)
        for column, share in ((left, 5), (right, 7)):
            column.setSpacing(12)
            columns.addLayout(column, share)
        columns.setSpacing(20)
        self.setCentralWidget(page)
        self.addAction(QAction("Paste", self, shortcut=QKeySequence.StandardKey.Paste, triggered=self.paste))

    def _start_worker(self) -> None:
        self._thread, self.worker = QThread(), Worker()
        self.worker.moveToThread(self._thread)
        self.bundle_named.connect(self.worker.open)
        self.question_asked.connect(self.worker.ask)
        self.image_changed.connect(self.worker.begin)
        self.closing.connect(self.worker.close, Qt.ConnectionType.BlockingQueuedConnection)
        self.worker.opened.connect(self._on_opened)
        self.worker.not_opened.connect(self._on_not_opened)
        self.worker.token.connect(self._on_token)
        self.worker.finished.connect(self._on_finished)
        self.worker.failed.connect(self._on_failed)
        self._thread.start()

    def _set_asked(self, is_asked: bool) -> None:
        self._is_asked = is_asked
        self.send_button.setVisible(not is_asked)
        self.stop_button.setVisible(is_asked)
        for widget in (self.question, self.send_button):
            widget.setEnabled(not is_asked)
        if not is_asked:
            self.question.setFocus()

    @Slot(str, str)
    def _on_opened(self, name: str, notice: str) -> None:
        self.title.setText(name)
        self.notice.setText(notice)
        self.notice.setVisible(bool(notice))
        self._set_asked(False)

    @Slot(str)
    def _on_not_opened(self, message: str) -> None:
        self.title.setText("No model")
        self.conversation.add("error", message)

    @Slot(str)
    def _on_token(self, text: str) -> None:
        if text and not self._ignores_answer:
            self._answer = self._answer or self.conversation.add("answer")
            self._answer.append(text, self.conversation.room)

    @Slot(str)
    def _on_finished(self, status: str) -> None:
        self.status.setText("" if self._ignores_answer else status)
        self._answer, self._ignores_answer = None, False
        self._set_asked(False)

    @Slot(str)
    def _on_failed(self, message: str) -> None:
        if not self._ignores_answer:
            self.conversation.add("error", message)
        self._on_finished("")

    @Slot()
    def send(self) -> None:
        question = self.question.text().strip()
        if not question:
            return
        self.question.clear()
        self.conversation.add("question", question)
        self.status.setText("Thinking ..." if self._new_image is None else "Looking at the image ...")
        self._set_asked(True)
        self.worker.is_stopped = False
        self.question_asked.emit(question, self._new_image)
        self._new_image = None

    @Slot()
    def stop(self) -> None:
        self.worker.stop()

    @Slot()
    def open_file(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Open an image")
        if path:
            self.take_file(path)

    @Slot()
    def paste(self) -> None:
        self._take(QApplication.clipboard().mimeData())

    def dragEnterEvent(self, event) -> None:
        if event.mimeData().hasUrls() or event.mimeData().hasImage():
            event.acceptProposedAction()

    def dropEvent(self, event) -> None:
        self._take(event.mimeData())

    def _take(self, data: QMimeData) -> None:
        files = [url.toLocalFile() for url in data.urls() if url.isLocalFile()]
        if files:
            self.take_file(files[0])
        elif data.hasImage():
            image, buffer = QImage(data.imageData()), QBuffer()
            buffer.open(QIODevice.OpenModeFlag.WriteOnly)
            image.save(buffer, "PNG")
            self._take_image(bytes(buffer.data()), image)

    def take_file(self, path: str) -> None:
        """Opens another image by its path."""
        reader = QImageReader(path)
        reader.setAutoTransform(True)  # applies EXIF orientation, as edge-llava does
        self._take_image(path, reader.read())

    def _take_image(self, source: str | bytes, preview: QImage) -> None:
        self._ignores_answer = self._is_asked
        self.stop()
        self.image_changed.emit(source)  # the worker handles it once the answer has stopped
        self._new_image = source
        self.image_view.show_image(preview)
        self.conversation.clear()
        self.status.clear()
        self._answer = None

    def closeEvent(self, event) -> None:
        """Stops the answer, frees the engines, and then closes the window."""
        self.stop()
        self.closing.emit()
        self._thread.quit()
        self._thread.wait()
        super().closeEvent(event)


def main(bundle: str, *images: str) -> int:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Qt's loop ignores Python's handler, so that Ctrl-C would do nothing
    app = QApplication(sys.argv)
    app.setStyleSheet(STYLE)
    window = Window(bundle)
    window.resize(980, 600)
    for image in images[:1]:
        window.take_file(image)
    window.show()
    return app.exec()


if __name__ == "__main__":
    # lets a frozen app test itself: MyApp --selftest [BUNDLE]
    if sys.argv[1:2] == ["--selftest"]:
        from edge_llava.cli.selftest import main as selftest

        selftest(sys.argv[2:])
    sys.exit(main(*sys.argv[1:]) if sys.argv[1:] else __doc__)
