"""How much of what clients sent is held at a time."""

from __future__ import annotations

from edge_llava.server.openai_errors import too_busy

_RETRY_S = 5.0


class MemoryBudget:
    """Bytes of bodies and decoded pictures, of all requests together. For the event loop's thread."""

    def __init__(self, n_bytes: int) -> None:
        self.n_bytes = n_bytes
        self.n_held = 0

    def open(self) -> Share:
        """A share for one request; give it back with `with`."""
        return Share(self)


class Share:
    """What one request holds."""

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget, self._n_held = budget, 0

    def __enter__(self) -> Share:
        return self

    def __exit__(self, *exception: object) -> None:
        self._budget.n_held -= self._n_held
        self._n_held = 0

    def take(self, n_bytes: int) -> None:
        """Notes that the request holds so much more.

        Raises:
            RequestFault: 429 if all requests together would hold too much.
        """
        if self._budget.n_held + n_bytes > self._budget.n_bytes:
            raise too_busy(_RETRY_S, "The server holds as much of other requests as it may. Try again soon.")
        self._budget.n_held += n_bytes
        self._n_held += n_bytes
