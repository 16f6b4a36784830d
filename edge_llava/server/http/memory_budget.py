"""How much memory is taken by what clients sent."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from edge_llava.server.openai.errors import RequestFault, too_busy

_RETRY_S = 5.0


class MemoryBudget:
    """Bytes that all requests hold together: bodies, image files, decoded images. Thread-safe.

    Attributes:
        n_bytes: The most they may.
        n_held, n_peak: What they hold, and the most that they have held.
    """

    def __init__(self, n_bytes: int) -> None:
        self.n_bytes = n_bytes
        self.n_held = self.n_peak = 0
        self._lock = threading.Lock()

    def open(self) -> Share:
        """A share for one request; give it back with `with`."""
        return Share(self)

    def change(self, n_bytes: int) -> None:
        """Takes bytes, or gives them back where the number is negative.

        Raises:
            RequestFault: 429 if all requests together would hold too much.
        """
        with self._lock:
            if n_bytes > 0 and self.n_held + n_bytes > self.n_bytes:
                raise too_busy(_RETRY_S, "Other requests hold as much memory as the server allows. Try again soon.")
            self.n_held += n_bytes
            self.n_peak = max(self.n_peak, self.n_held)


class Share:
    """What one request holds: until its `with` block has ended, and whatever works for it on a thread has, too."""

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget, self._n_held, self._n_users = budget, 0, 1
        self._lock = threading.Lock()

    def __enter__(self) -> Share:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def retain(self) -> None:
        """One more user: nothing is given back before it has called `release`."""
        with self._lock:
            self._n_users += 1

    def release(self) -> None:
        """One user fewer; the last one gives everything back."""
        with self._lock:
            self._n_users -= 1
            if self._n_users == 0:
                self._change(-self._n_held)

    def take(self, n_bytes: int) -> None:
        """Notes that the request holds more, or less where the number is negative.

        Raises:
            RequestFault: 429 if all requests together would hold too much, 413 if this one alone would.
        """
        with self._lock:
            if self._n_held + n_bytes > self._budget.n_bytes:
                raise _too_large(self._n_held + n_bytes, self._budget.n_bytes)
            self._change(n_bytes)

    @contextmanager
    def borrow(self, n_bytes: int) -> Iterator[None]:
        """Takes bytes for the time of a `with` block: what one step of the work needs beside its result.

        Raises:
            RequestFault: as `take`.
        """
        self.take(n_bytes)
        try:
            yield
        finally:
            self.take(-n_bytes)

    def _change(self, n_bytes: int) -> None:
        self._budget.change(n_bytes)
        self._n_held += n_bytes


def _too_large(n_bytes: int, n_most: int) -> RequestFault:
    needed, allowed = f"{n_bytes / 1e6:,.0f} MB", f"{n_most / 1e6:,.0f} MB"
    message = f"This request takes {needed} of memory; the server allows {allowed}. Send fewer or smaller images."
    return RequestFault(413, message, code="request_too_large")
