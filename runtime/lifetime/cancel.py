"""How a request to stop travels inside the runtime."""

from __future__ import annotations

import math
import threading
import time

_LOOK_S = 0.005


class Cancelled(Exception):
    """Work was stopped on request. Caught by the session; never leaves the runtime's public functions."""


class StopFlag(threading.Event):
    """An event without a lock, so that a signal handler may set it while the same thread is setting it."""

    def __init__(self) -> None:
        super().__init__()
        self._is_stopped = False

    def is_set(self) -> bool:
        """Whether `set` was called."""
        return self._is_stopped

    def set(self) -> None:
        """Requests the stop; safe to call anywhere, any number of times."""
        self._is_stopped = True

    def clear(self) -> None:
        """Withdraws the request."""
        self._is_stopped = False

    def wait(self, timeout: float | None = None) -> bool:
        """Waits for the request, looking every few milliseconds; returns whether it came."""
        deadline = time.monotonic() + (math.inf if timeout is None else timeout)
        while not self.is_set() and (left_s := deadline - time.monotonic()) > 0:
            time.sleep(min(_LOOK_S, left_s))
        return self.is_set()
