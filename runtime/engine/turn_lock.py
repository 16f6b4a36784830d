"""A lock that is given in the order it was asked for, and that a waiting caller can leave."""

from __future__ import annotations

import threading
from collections import deque

from edge_llava.errors import EdgeLlavaError
from edge_llava.runtime.lifetime.cancel import Cancelled


class TurnLock:
    """One answer at a time; the rest wait in order."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._queue: deque[int] = deque()
        self._next_ticket = 0
        self._owner: int | None = None

    def acquire(self, cancel: threading.Event) -> None:
        """Waits for the turn.

        Raises:
            Cancelled: If `cancel` was set while waiting.
            EdgeLlavaError: If this thread has the turn already and would wait for itself.
        """
        with self._condition:
            if self._owner == threading.get_ident():
                raise EdgeLlavaError(
                    "another answer is still open on this thread. Read it to its end, or close() it, first."
                )
            ticket = self._next_ticket
            self._next_ticket += 1
            self._queue.append(ticket)
            try:
                while self._owner is not None or self._queue[0] != ticket:
                    if cancel.is_set():
                        raise Cancelled
                    self._condition.wait(0.05)
                self._owner = threading.get_ident()
            finally:  # also after Ctrl-C: those behind would wait for ever
                self._queue.remove(ticket)
                self._condition.notify_all()

    def release(self) -> None:
        """Gives the turn to the next in line."""
        with self._condition:
            self._owner = None
            self._condition.notify_all()
