"""One pass of an image through the tower, and everyone who waits for its rows."""

from __future__ import annotations

import threading
from concurrent.futures import Future

from edge_llava.runtime.lifetime.cancel import StopFlag
from edge_llava.runtime.vision.image_embedding import ImageEmbedding


class SharedEncoding(StopFlag):
    """Hands the rows of one image to several users. Thread-safe.

    To the tower it is the flag that stops the work: it is set once every user has left. A user leaves by setting its
    own `cancel`, or by cancelling its future.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._users: list[tuple[Future[ImageEmbedding], threading.Event | None]] = []

    def join(self, cancel: threading.Event | None) -> Future[ImageEmbedding] | None:
        """A new user's own future.

        Returns:
            None if all others have left: the work stops, and must be begun again.
        """
        future = Future[ImageEmbedding]()
        with self._lock:
            if self._users and not any(map(_waits, self._users)):
                return None
            self._users.append((future, cancel))
        return future

    def is_set(self) -> bool:
        """Whether every user has left."""
        with self._lock:  # while a user joins, the answer would be old before it is given
            return not any(map(_waits, self._users))

    def finish(self, work: Future[ImageEmbedding]) -> None:
        """Hands the result of the work to every user. Nothing can join any more."""
        for future, _ in self._users:
            if work.cancelled():
                future.cancel()
            if not future.set_running_or_notify_cancel():
                continue
            if (error := work.exception()) is not None:
                future.set_exception(error)
            else:
                future.set_result(work.result())


def _waits(user: tuple[Future[ImageEmbedding], threading.Event | None]) -> bool:
    future, cancel = user
    return not future.cancelled() and (cancel is None or not cancel.is_set())
