"""One piece of the tower's work, and everyone who waits for what it gives."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Generic, TypeVar

from edge_llava.runtime.lifetime.cancel import StopFlag

_Result = TypeVar("_Result")


class SharedWork(StopFlag, Generic[_Result]):
    """Hands one result to several users. Thread-safe.

    To the tower it is the flag that stops the work: it is set once every user has left, by cancelling its own future.

    Attributes:
        first: The future of the one who began it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first = Future[_Result]()
        self._lock = threading.Lock()
        self._users = [self.first]

    def join(self) -> Future[_Result] | None:
        """A new user's future; None if all others have left: the work stops, and must be begun again."""
        with self._lock:
            if all(user.cancelled() for user in self._users):
                return None
            self._users.append(Future[_Result]())
            return self._users[-1]

    def is_set(self) -> bool:
        """Whether every user has left."""
        with self._lock:  # while a user joins, the answer would be old before it is given
            return all(user.cancelled() for user in self._users)

    def finish(self, work: Future[_Result]) -> None:
        """Hands the result of the work to every user. Nothing can join any more."""
        for user in self._users:
            if work.cancelled():
                user.cancel()
            if not user.set_running_or_notify_cancel():
                continue
            if (error := work.exception()) is not None:
                user.set_exception(error)
            else:
                user.set_result(work.result())
