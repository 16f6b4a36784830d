"""How a request to stop travels inside the runtime."""

from __future__ import annotations

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
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.is_set() and (deadline is None or time.monotonic() < deadline):
            time.sleep(_LOOK_S if deadline is None else max(0.0, min(_LOOK_S, deadline - time.monotonic())))
        return self.is_set()
