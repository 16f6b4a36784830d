"""Pictures on their way through the tower, for whoever waits for them: one that many ask about is encoded once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol
from weakref import WeakValueDictionary

from edge_llava.runtime.runs import ImageRun
from edge_llava.runtime.vision.image import Image
from edge_llava.runtime.vision.image_embedding import ImageEmbedding


class StartEncoding(Protocol):
    """What `PictureQueue` needs of a tower."""

    def __call__(self, image: Image, key: str, cancel: threading.Event, *, identity: str) -> Future[ImageEmbedding]:
        """See `Tower.start`."""


@dataclass
class _Encoding:
    work: Future[ImageEmbedding]
    cancel: threading.Event
    waiting: set[ImageRun] = field(default_factory=set)


class PictureQueue:
    """Encodes pictures in the order they are asked for. For one thread.

    Attributes:
        n_encoded: Pictures that the tower has finished.
    """

    def __init__(self, start: StartEncoding, wake: Callable[[], None]) -> None:
        """
        Args:
            start: Begins to encode an image, on another thread.
            wake: Told, on another thread, that a picture may be there.
        """
        self.n_encoded = 0
        self._start, self._wake = start, wake
        self._encodings: dict[str, _Encoding] = {}
        # while any conversation holds the rows of a picture, no other needs the tower for it
        self._rows = WeakValueDictionary[str, ImageEmbedding]()

    def ask(self, run: ImageRun) -> None:
        """Begins to encode a picture, unless its rows are there or on their way."""
        if run.embedding is None and (rows := self._rows.get(run.identity)) is not None:
            run.take(rows)
        if run.embedding is not None or run.image is None:
            return
        if run.identity not in self._encodings:
            cancel = threading.Event()
            work = self._start(run.image, run.key, cancel, identity=run.identity)
            self._encodings[run.identity] = _Encoding(work, cancel)
            self._encodings[run.identity].work.add_done_callback(lambda _: self._wake())
        self._encodings[run.identity].waiting.add(run)

    def has_news(self, run: ImageRun) -> bool:
        """Whether `ask` or `collect` would do something for it."""
        encoding = self._encodings.get(run.identity)
        is_asked = encoding is not None and run in encoding.waiting
        return run.embedding is None and (not is_asked or (encoding is not None and encoding.work.done()))

    def collect(self, run: ImageRun) -> ImageEmbedding | None:
        """Gives a picture its rows, if they have come.

        Returns:
            The rows, once; None before and after.

        Raises:
            EdgeLlavaError: What encoding it raised.
        """
        encoding = self._encodings.get(run.identity)
        if encoding is None or run not in encoding.waiting or not encoding.work.done():
            return None
        is_first = run.identity not in self._rows
        self._remove(run, encoding)
        rows = encoding.work.result()
        run.take(rows)
        if is_first:
            self._rows[run.identity] = rows
            self.n_encoded += 1
        return rows

    def leave(self, run: ImageRun) -> None:
        """Nobody waits for this run's rows any more; encoding stops if nobody else waits for the picture."""
        encoding = self._encodings.get(run.identity)
        if encoding is not None and run in encoding.waiting:
            self._remove(run, encoding)

    def _remove(self, run: ImageRun, encoding: _Encoding) -> None:
        encoding.waiting.discard(run)
        if not encoding.waiting:
            encoding.cancel.set()
            encoding.work.cancel()
            del self._encodings[run.identity]
