"""Counts the memory that client data takes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from edge_llava.server.http.errors import RequestError, too_busy

_RETRY_S = 5.0


class MemoryBudget:
    """The bytes that all requests hold together: bodies, image files, decoded images. Thread-safe.

    Attributes:
        n_bytes: The limit.
        n_held, n_peak: The bytes they hold now, and their maximum so far.
    """

    def __init__(self, n_bytes: int) -> None:
        self.n_bytes = n_bytes
        self.n_held = self.n_peak = 0
        self._lock = threading.Lock()

    def open(self) -> MemoryLease:
        """Opens a lease for one request; use it in a `with` block."""
        return MemoryLease(self)

    def change(self, n_bytes: int) -> None:
        """Takes bytes, or returns them if the number is negative.

        Raises:
            RequestError: 429 if all requests together would hold too much.
        """
        with self._lock:
            if n_bytes > 0 and self.n_held + n_bytes > self.n_bytes:
                raise too_busy(_RETRY_S, "Other requests use all the memory that the server allows. Try again soon.")
            self.n_held += n_bytes
            self.n_peak = max(self.n_peak, self.n_held)


class MemoryLease:
    """The memory that one request holds until its `with` block and all threads that work for it have ended."""

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget, self._n_held, self._n_users = budget, 0, 1
        self._lock = threading.Lock()

    def __enter__(self) -> MemoryLease:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def retain(self) -> None:
        """Adds a user: nothing is returned before it calls `release`."""
        with self._lock:
            self._n_users += 1

    def release(self) -> None:
        """Removes a user; the last one returns all bytes."""
        with self._lock:
            self._n_users -= 1
            if self._n_users == 0:
                self._change(-self._n_held)

    def take(self, n_bytes: int) -> None:
        """Records that the request holds more bytes, or fewer if the number is negative.

        Raises:
            RequestError: 429 if all requests together would hold too much, 413 if this one alone would.
        """
        with self._lock:
            if self._n_held + n_bytes > self._budget.n_bytes:
                raise _too_large(self._n_held + n_bytes, self._budget.n_bytes)
            self._change(n_bytes)

    @contextmanager
    def borrow(self, n_bytes: int) -> Iterator[None]:
        """Takes bytes for the duration of a `with` block: what one step of the work needs besides its result.

        Raises:
            RequestError: As `take`.
        """
        self.take(n_bytes)
        try:
            yield
        finally:
            self.take(-n_bytes)

    def _change(self, n_bytes: int) -> None:
        self._budget.change(n_bytes)
        self._n_held += n_bytes


def _too_large(n_bytes: int, n_most: int) -> RequestError:
    needed, allowed = f"{n_bytes / 1e6:,.0f} MB", f"{n_most / 1e6:,.0f} MB"
    message = f"This request takes {needed} of memory; the server allows {allowed}. Send fewer or smaller images."
    return RequestError(413, message, code="request_too_large")
