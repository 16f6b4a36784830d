"""The images that answers wait for, on their way through the tower."""

from __future__ import annotations

from collections.abc import Callable

from edge_llava.runtime.runs import ImageRun
from edge_llava.runtime.vision.image_embedding import ImageEmbedding
from edge_llava.runtime.vision.tower import Tower


class ImageQueue:
    """Has the tower encode images in the order they are requested. For one thread."""

    def __init__(self, tower: Tower, wake: Callable[[], None]) -> None:
        """
        Args:
            tower: Encodes each image once, however many answers request it.
            wake: Called, on another thread, when an image may be ready.
        """
        self._tower, self._wake = tower, wake

    @property
    def holds_cores(self) -> bool:
        """Whether an image that is being encoded now takes the cores that the language model needs."""
        return self._tower.is_open and not self._tower.on_gpu

    @property
    def is_opening(self) -> bool:
        """Whether the next image must wait until the tower is opened, which takes one core."""
        return not self._tower.is_open

    def request(self, run: ImageRun) -> None:
        """Begins to encode an image, unless its rows are there or on their way."""
        if run.embedding is None and run.encoding is None and run.image is not None:
            run.encoding = self._tower.start(run.image, run.key, identity=run.identity)
            run.encoding.add_done_callback(lambda _: self._wake())

    def is_ready(self, run: ImageRun) -> bool:
        """Whether `request` or `collect` would do something for it."""
        return run.embedding is None and (run.encoding is None or run.encoding.done())

    def collect(self, run: ImageRun) -> ImageEmbedding | None:
        """Gives an image its rows, if they have come.

        Returns:
            The rows, once; None before and after.

        Raises:
            EdgeLlavaError: What encoding it raised.
        """
        if run.encoding is None or not run.encoding.done():
            return None
        work, run.encoding = run.encoding, None
        run.take(work.result())
        return run.embedding

    def cancel(self, run: ImageRun) -> None:
        """Nothing waits for this run's rows any more; encoding stops if no other answer waits for the image."""
        run.stop_encoding()
