"""Tower and projector on a thread of their own: a known picture needs neither, and others wait for nothing but them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edge_llava.bundle.bundle import Bundle
from edge_llava.device.threads import usable_threads
from edge_llava.runtime.lifetime.cancel import Cancelled
from edge_llava.runtime.lifetime.work_thread import WorkThread
from edge_llava.runtime.options import EngineOptions
from edge_llava.runtime.vision.image_embedding import ImageEmbedding
from edge_llava.runtime.vision.image_encoder import PictureEncoder

_LOOK_S = 0.05
_Result = TypeVar("_Result")


class LateEncoder:
    """Encodes pictures one after another, on its thread; opens a picture encoder for the first. Thread-safe.

    Attributes:
        open_s: Seconds that opening took so far.
        on_gpu: Whether the tower runs on a GPU; False until it was opened.
    """

    def __init__(self, opener: Callable[[], PictureEncoder], *, stays_open: bool = True) -> None:
        """
        Args:
            opener: Opens the encoder.
            stays_open: False closes it after every picture, and opens it anew for the next: less memory.
        """
        self.open_s, self.on_gpu = 0.0, False
        self._opener, self._stays_open = opener, stays_open
        self._encoder: PictureEncoder | None = None  # the thread's own
        self._thread = WorkThread("edge-llava-tower")

    @property
    def is_open(self) -> bool:
        """Whether the next picture need not wait for an opening."""
        return self._encoder is not None

    def start(
        self, picture: Image.Image, key: str | None = None, cancel: threading.Event | None = None
    ) -> Future[ImageEmbedding]:
        """Begins to encode an upright RGB picture, after those that were begun before; see `wait_for`.

        Args:
            picture: What `open_picture` gives.
            key: The picture's `image_key`, where it is known already.
            cancel: Set it from another thread to stop.
        """
        return self._thread.submit(self._work, lambda encoder: encoder.encode(picture, cancel, key))

    def start_features(
        self, picture: Image.Image, cancel: threading.Event | None = None
    ) -> Future[NDArray[np.float32]]:
        """As `start`, for what the tower sees: float32 (T, P, D), one square, or the whole and its tiles."""
        return self._thread.submit(self._work, lambda encoder: encoder.patch_features(picture, cancel))

    def close(self) -> None:
        """Frees the engines after what is being encoded; safe to call twice. Nobody may ask for pictures any more."""
        self._thread.close()
        self._release()

    def _work(self, use: Callable[[PictureEncoder], _Result]) -> _Result:
        try:
            return use(self._open())
        finally:
            if not self._stays_open:
                self._release()

    def _open(self) -> PictureEncoder:
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


def make_tower(bundle: Bundle, options: EngineOptions) -> LateEncoder:
    """The tower of a bundle, opened for its first picture."""
    n_threads = usable_threads(options.n_vision_threads)

    def opener() -> PictureEncoder:
        return PictureEncoder(
            bundle,
            n_threads,
            options.vision_provider,
            spinning=options.vision_spinning,
            mapped=options.low_memory,
            visual_tokens=options.visual_tokens,
        )

    return LateEncoder(opener, stays_open=not options.low_memory)


def wait_for(work: Future[_Result], cancel: threading.Event | None = None) -> _Result:
    """What some work on the thread gave.

    Raises:
        Cancelled: If `cancel` was set meanwhile; opening goes on, for the next time.
        EdgeLlavaError: What it raised.
    """
    while not wait([work], _LOOK_S).done:
        if cancel is not None and cancel.is_set():
            raise Cancelled
    return work.result()
