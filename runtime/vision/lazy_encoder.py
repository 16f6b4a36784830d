"""Tower and projector on a thread of their own, opened when the first image needs them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from edge_llava.runtime.lifetime.cancel import Cancelled
from edge_llava.runtime.lifetime.work_thread import WorkThread
from edge_llava.runtime.vision.image_encoder import ImageEncoder

_Result = TypeVar("_Result")


class LazyEncoder:
    """Opens an image encoder for the first piece of work, and does one piece after another on its thread. Thread-safe.

    Attributes:
        open_s: Seconds that opening took so far.
        on_gpu: Whether the tower runs on a GPU; False until it was opened.
    """

    def __init__(self, opener: Callable[[], ImageEncoder], *, stays_open: bool = True) -> None:
        """
        Args:
            opener: Opens the encoder.
            stays_open: False closes it after every piece of work and opens it again for the next: less memory.
        """
        self.open_s, self.on_gpu = 0.0, False
        self._opener, self._stays_open = opener, stays_open
        self._encoder: ImageEncoder | None = None  # the thread's own
        self._thread = WorkThread("edge-llava-tower")

    @property
    def is_open(self) -> bool:
        """Whether the next piece of work need not wait for an opening."""
        return self._encoder is not None

    @property
    def n_waiting(self) -> int:
        """Pieces of work that were not begun."""
        return self._thread.n_waiting

    def submit(self, use: Callable[[ImageEncoder], _Result], cancel: threading.Event | None = None) -> Future[_Result]:
        """Puts a piece of work behind all others.

        Args:
            use: What to do with the open encoder.
            cancel: If it is set before the work begins, the work raises Cancelled and nothing is opened for it.

        Raises:
            RuntimeError: If this was closed.
        """
        return self._thread.submit(self._work, use, cancel)

    def close(self) -> None:
        """Frees the engines after the work that was begun, and drops the rest; safe to call twice."""
        self._thread.close()
        self._release()

    def _work(self, use: Callable[[ImageEncoder], _Result], cancel: threading.Event | None) -> _Result:
        if cancel is not None and cancel.is_set():
            raise Cancelled
        try:
            return use(self._open())
        finally:
            if not self._stays_open:
                self._release()

    def _open(self) -> ImageEncoder:
        if self._encoder is None:  # an opening that failed is tried again
            started = time.perf_counter()
            self._encoder = self._opener()
            self.on_gpu = self._encoder.on_gpu
            self.open_s += time.perf_counter() - started
        return self._encoder

    def _release(self) -> None:
        if self._encoder is not None:
            self._encoder.close()
            self._encoder = None
