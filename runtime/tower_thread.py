"""The tower on a thread of its own, so that the language model goes on meanwhile."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor

from PIL import Image

from edge_llava.bundle import Bundle
from edge_llava.runtime.image_embedding import ImageEmbedding
from edge_llava.runtime.late_encoder import LateEncoder
from edge_llava.runtime.model import EngineOptions
from edge_llava.runtime.picture_encoder import PictureEncoder
from edge_llava.runtime.threads import count_cores


class TowerThread:
    """Encodes pictures one after another; tower and projector are opened for the first."""

    def __init__(self, bundle: Bundle, options: EngineOptions) -> None:
        n_threads = options.n_vision_threads or count_cores()
        self._encoder = LateEncoder(
            lambda: PictureEncoder(bundle, n_threads, options.vision_provider, spinning=options.vision_spinning)
        )
        self._thread = ThreadPoolExecutor(1, "edge-llava-pictures")

    def start(self, picture: Image.Image, key: str, cancel: threading.Event) -> Future[ImageEmbedding]:
        """Begins to encode an upright RGB picture, after those that were begun before.

        Args:
            picture: What `open_picture` gives.
            key: The picture's `image_key`.
            cancel: Set it from another thread to stop.
        """
        return self._thread.submit(lambda: self._encoder.get(cancel).encode(picture, cancel, key))

    def close(self) -> None:
        """Frees the engines after what is being encoded; safe to call twice."""
        self._thread.shutdown(cancel_futures=True)
        self._encoder.close()
