"""Closing what several threads use: no sooner than they are done."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from edge_llava.errors import EdgeLlavaError


class Gate:
    """Lets threads in while it is open; closing waits until they have left. For short work only.

    Attributes:
        closed: Whether `shut` or `close` was called.
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
            self.check_open()
            self._n_inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._n_inside -= 1
                self._changed.notify_all()

    def check_open(self) -> None:
        """
        Raises:
            EdgeLlavaError: If it is closed.
        """
        if self.closed:
            raise EdgeLlavaError(f"{self._name} is closed. Load it again.")

    def shut(self) -> bool:
        """Lets nobody in any more, and does not wait. Returns whether it was open."""
        with self._changed:
            was_open, self.closed = not self.closed, True
        return was_open

    def close(self) -> None:
        """Lets nobody in any more and waits for those inside; safe to call twice."""
        self.shut()
        with self._changed:
            self._changed.wait_for(lambda: self._n_inside == 0)
