"""Closing what several threads use: no sooner than they are done."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from edge_llava.errors import EdgeLlavaError


class Gate:
    """Lets threads in while it is open; closing waits until they have left. For short work only.

    Attributes:
        closed: Whether `close` was called.
    """

    def __init__(self, name: str) -> None:
        """
        Args:
            name: What lies behind it, for the message: "this model".
        """
        self.closed = False
        self._name = name
        self._changed = threading.Condition()
        self._n_inside = 0

    @contextmanager
    def inside(self) -> Iterator[None]:
        """While inside, `close` of another thread waits.

        Raises:
            EdgeLlavaError: If it is closed.
        """
        with self._changed:
            if self.closed:
                raise EdgeLlavaError(f"{self._name} is closed. Load it again.")
            self._n_inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._n_inside -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """Lets nobody in any more and waits for those inside; safe to call twice."""
        with self._changed:
            self.closed = True
            self._changed.wait_for(lambda: self._n_inside == 0)
