from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from edge_llava import demo


@pytest.fixture
def example(examples, tmp_path):
    """example(name, *arguments) -> CompletedProcess of an example, run elsewhere."""

    def run(name, *arguments):
        command = [sys.executable, str(examples / name), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    return run


def test_ask(example, demo_bundle, shapes):
    done = example("ask.py", demo_bundle, shapes, "What colour is the square?")
    assert (done.returncode, done.stdout, done.stderr) == (0, "Blue.\n", "")


def test_ask_async(example, demo_bundle, shapes):
    answers = {
        "What colour is the square?": "Blue.",
        "How many objects are there?": "Three.",
        "Is the green star to the left of the blue square?": "Yes.",
    }
    done = example("ask_async.py", demo_bundle, shapes, *answers)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.splitlines()) == sorted(f"{question} {answer}" for question, answer in answers.items())


def test_caption_folder(example, demo_bundle, tmp_path):
    shutil.copytree(demo.PICTURES, tmp_path / "pictures")
    (tmp_path / "pictures" / "broken.png").write_bytes(b"not an image")
    done = example("caption_folder.py", demo_bundle, "pictures")
    assert (done.returncode, done.stdout) == (0, "4 captioned, 0 earlier: pictures/captions.jsonl\n")
    assert "broken.png: it is not an image" in done.stderr
    lines = [json.loads(line) for line in (tmp_path / "pictures" / "captions.jsonl").read_text().splitlines()]
    assert "large blue square" in lines[0]["caption"]


@pytest.mark.parametrize("name", ["ask.py", "ask_async.py", "caption_folder.py"])
def test_a_mistake_is_one_line(example, name):
    done = example(name, "no-such-bundle", "none.jpg")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("there is no bundle 'no-such-bundle'")
    assert done.stderr.count("\n") == 1


DRIVER = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
import desktop_app
from PySide6.QtCore import QMimeData, QPointF, Qt, QUrl
from PySide6.QtGui import QDropEvent, QImage
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QLabel

app = QApplication([])
app.setStyleSheet(desktop_app.STYLE)


def open_window(bundle):
    window = desktop_app.Window(bundle)
    window.resize(980, 600)
    window.show()
    return window


def wait(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        QTest.qWait(2)


def ask(window, question):
    window.question.setText(question)
    QTest.keyClick(window.question, Qt.Key.Key_Return)


def said(window):
    bubbles = window.conversation.findChildren(desktop_app.Bubble)
    return [(bubble.property("role"), bubble.findChild(QLabel).text()) for bubble in bubbles]


def drop(window, data):
    copy, button, key = Qt.DropAction.CopyAction, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    window.dropEvent(QDropEvent(QPointF(9, 9), copy, data, button, key))


def report(**facts):
    print(json.dumps(facts), flush=True)
"""


@pytest.fixture
def drive(examples, tmp_path):
    """drive(code, *arguments) -> what the code reported; the window is rendered offscreen."""
    pytest.importorskip("PySide6.QtWidgets", reason="needs the [desktop] extra", exc_type=ImportError)

    def run(code, *arguments):
        environment = os.environ | {"QT_QPA_PLATFORM": "offscreen"}
        command = [sys.executable, "-c", DRIVER + code, str(examples), *map(str, arguments)]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


def test_desktop_app_talks_about_images(drive, demo_bundle, shapes, tmp_path):
    code = """
bundle, shapes, other = sys.argv[2:]
window = open_window(bundle)
report(title=window.title.text(), enabled=window.question.isEnabled())
wait(lambda: window.question.isEnabled())
data = QMimeData()
data.setUrls([QUrl.fromLocalFile(shapes)])
drop(window, data)
for question in ("What colour is the square?", "How many objects are there?"):
    ask(window, question)
    wait(lambda: not window._is_asked)
report(title=window.title.text(), notice=window.notice.text(), said=said(window), status=window.status.text())
image = window.grab().toImage()
report(colours=len({image.pixel(x, y) for x in range(0, 980, 7) for y in range(0, 600, 7)}))
QApplication.clipboard().setImage(QImage(other))
window.paste()
report(said=said(window))
ask(window, "What colour is the square?")
wait(lambda: not window._is_asked)
report(said=said(window))
window.take_file("missing.jpg")
report(is_empty=window.image_view.pixmap().isNull(), text=window.image_view.text())
ask(window, "What is this?")
wait(lambda: not window._is_asked)
report(said=said(window))
window.close()
report(running=window._thread.isRunning(), closed=window.worker._model.closed)
"""
    first, talk, image, empty, other, torn, missing, end = drive(
        code, demo_bundle, shapes, demo.PICTURES / "shapes-2.jpg"
    )
    assert first == {"title": "Opening the model ...", "enabled": False}
    assert (talk["title"], talk["notice"]) == ("demo", demo.NOTICE)
    assert talk["said"] == [
        ["question", "What colour is the square?"],
        ["answer", "Blue."],
        ["question", "How many objects are there?"],
        ["answer", "Three."],
    ]
    assert "positions reused" in talk["status"]
    assert image["colours"] > 100  # the image is shown
    assert empty["said"] == []
    assert other["said"][1] == ["answer", "Cyan."]
    assert torn == {"is_empty": True, "text": "No preview of this image"}  # and not the previous image
    assert missing["said"][1] == ["error", "there is no file missing.jpg."]
    assert end == {"running": False, "closed": True}


def test_desktop_app_stops(drive, seeded_f32, shapes):
    """The seeded bundle answers 512 tokens of noise unless it is stopped."""
    code = """
window = open_window(sys.argv[2])
wait(lambda: window.question.isEnabled())
window.take_file(sys.argv[3])
ask(window, "Say much.")
wait(lambda: said(window)[-1][0] == "answer")
QTest.mouseClick(window.stop_button, Qt.MouseButton.LeftButton)
wait(lambda: not window._is_asked)
report(status=window.status.text())
ask(window, "Say more.")
window.stop_button.click()  # before it started
wait(lambda: not window._is_asked)
report(said=said(window)[2:])
ask(window, "And on.")
wait(lambda: said(window)[-1][0] == "answer")
window.take_file(sys.argv[3])  # another image, while the answer about this one is computed
report(said=said(window), is_asked=window._is_asked)
wait(lambda: not window._is_asked)
wait(lambda: window.worker._chat.n_positions == 0)  # on its thread
report(said=said(window))
ask(window, "Say much.")
wait(lambda: said(window)[-1][0] == "answer")
window.close()  # while it answers
report(running=window._thread.isRunning(), closed=window.worker._model.closed)
"""
    stopped, unbegun, before, after, end = drive(code, seeded_f32, shapes)
    assert int(stopped["status"].split()[0]) < 512
    assert unbegun["said"] == [["question", "Say more."]]
    assert before == {"said": [], "is_asked": True}
    assert after == {"said": []}
    assert end == {"running": False, "closed": True}


def test_desktop_app_without_a_model(drive):
    code = """
window = open_window("no-such-bundle")
wait(lambda: said(window))
report(title=window.title.text(), said=said(window), enabled=window.question.isEnabled())
window.close()
"""
    (facts,) = drive(code)
    assert facts["title"] == "No model"
    assert facts["said"][0][0] == "error"
    assert "there is no bundle 'no-such-bundle'" in facts["said"][0][1]
    assert facts["enabled"] is False


@pytest.mark.parametrize("name", ["ask.py", "ask_async.py", "caption_folder.py"])
def test_without_arguments_examples_say_what_they_take(example, name):
    done = example(name)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"python examples/{name} BUNDLE" in done.stderr
    assert "Traceback" not in done.stderr
