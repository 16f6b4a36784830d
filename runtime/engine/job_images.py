"""The images of jobs, from the tower: requested when they are needed, taken when they have come."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edge_llava.runtime.engine.job import Job
from edge_llava.runtime.runs import ImageRun
from edge_llava.runtime.vision.tower import Tower


class JobImages:
    """Between the jobs and the tower. For the engine's thread; encoding happens on the tower's."""

    def __init__(self, tower: Tower, wake: Callable[[], None]) -> None:
        """`wake` is called, on another thread, when an image has come."""
        self._tower, self._wake = tower, wake

    def request(self, image: ImageRun) -> None:
        """Begins to encode an image, unless its rows are there or on their way."""
        if image.image is not None and image.encoding is None:
            image.encoding = self._tower.start(image.image, image.key, image.identity, image.form)
            image.encoding.add_done_callback(lambda _: self._wake())

    def fetch(self, job: Job) -> None:
        """Gives a job the rows that have come, and requests those that it needs next.

        Raises:
            EdgeLlavaError: What encoding raised.
        """
        missing = job.missing_images(job.n_coming)
        job.answer.n_missing_images = len(missing)
        for image in missing:
            self.request(image)
            if (encoding := image.encoding) is not None and encoding.done():
                image.encoding = None  # also where it failed
                image.take(encoding.result())
                job.answer.note_image(encoding.result())
        job.answer.n_missing_images = sum(image.embedding is None for image in missing)
        is_waiting = job.answer.n_missing_images > 0
        # both would compute on the same cores, each more slowly
        job.is_paused = is_waiting and self._tower.is_open and not self._tower.on_gpu

    def hand_over(self, source: Job, target: Job) -> None:
        """Requests, for `target`, the images being encoded for `source`, which is about to end and cancel them."""
        for image in source.encoded_images(target):
            self.request(image)

    def opens_tower_for(self, jobs: Sequence[Job]) -> bool:
        """Whether the tower is being opened for one of these, which takes a core."""
        is_coming = any(image.encoding for job in jobs for image in job.images.values())
        return is_coming and not self._tower.is_open
