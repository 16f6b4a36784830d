"""A picture encoder that is opened when a picture must be encoded: a known one needs neither tower nor projector."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from edge_llava.runtime.cancel import Cancelled
from edge_llava.runtime.picture_encoder import PictureEncoder

_LOOK_S = 0.05


class LateEncoder:
    """Opens a picture encoder once, on a thread of its own, so that whoever waits for it can leave. Thread-safe.

    Attributes:
        open_s: Seconds that opening took; 0.0 until it was opened.
    """

    def __init__(self, opener: Callable[[], PictureEncoder]) -> None:
        self.open_s = 0.0
        self._opener = opener
        self._lock = threading.Lock()
        self._opening: Future[PictureEncoder] | None = None

    @property
    def is_open(self) -> bool:
        """Whether it was opened, or is being opened."""
        return self._opening is not None

    def get(self, cancel: threading.Event | None = None) -> PictureEncoder:
        """The encoder, opened if it was not; an opening that failed is tried again.

        Raises:
            Cancelled: If `cancel` was set meanwhile; opening goes on, for the next time.
            EdgeLlavaError: What opening it raises.
        """
        opening = self._start()
        while not wait([opening], _LOOK_S).done:
            if cancel is not None and cancel.is_set():
                raise Cancelled
        if opening.exception() is not None:
            with self._lock:
                self._opening = None if self._opening is opening else self._opening
        return opening.result()

    def close(self) -> None:
        """Frees the engines, once they are there; safe to call twice. Nobody may ask for them any more."""
        opening = self._opening
        if opening is not None and opening.exception() is None:
            opening.result().close()

    def _start(self) -> Future[PictureEncoder]:
        with self._lock:
            if self._opening is None:
                thread = ThreadPoolExecutor(1, "edge-llava-tower")
                self._opening = thread.submit(self._open)
                thread.shutdown(wait=False)
            return self._opening

    def _open(self) -> PictureEncoder:
        started = time.perf_counter()
        encoder = self._opener()
        self.open_s = time.perf_counter() - started
        return encoder
