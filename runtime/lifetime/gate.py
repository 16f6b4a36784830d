"""Engines that several threads use, and when they are freed: once, and not before every thread has left them."""

from __future__ import annotations

import atexit
import os
import threading
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edge_llava.errors import EdgeLlavaError
from edge_llava.runtime.lifetime.cancel import StopFlag

_EXIT_S = 10.0  # how long the end of the process waits for threads that are inside


class Gate:
    """Knows which threads are inside. Closing stops them; the engines are freed when the last one has left.

    `close` may be called anywhere: by another thread, by a thread that is inside, by a signal handler in the middle of
    any of these methods. A thread never waits for itself, so the lock is re-entrant, and everything a handler could
    see half done is written in an order that is safe at each step.

    Attributes:
        closing: Set by `close` and `abandon`.
    """

    def __init__(self, name: str, stop: Callable[[], object], free: Callable[[], object]) -> None:
        """
        Args:
            name: What lies behind it, for messages: "this model".
            stop: Has those inside leave soon; called on closing, perhaps several times, before `free`. Must not wait.
            free: Called once, when no thread is inside.
        """
        self.closing = StopFlag()
        self._name, self._process = name, os.getpid()
        self._stop, self._free = stop, free
        self._changed = threading.Condition()
        self._inside = Counter[int]()  # how many times each thread is
        self._n_closing = 0  # threads that wait in `close`, one of which will free
        self._is_taken = self._is_freed = False
        _gates.add(self)

    @property
    def closed(self) -> bool:
        """Whether `close` or `abandon` was called."""
        return self.closing.is_set()

    @property
    def is_elsewhere(self) -> bool:
        """Whether this is a forked child of the process that the engines belong to."""
        return os.getpid() != self._process

    def check_process(self) -> None:
        """Raises EdgeLlavaError in a forked child."""
        if self.is_elsewhere:
            raise EdgeLlavaError(
                f"{self._name} was opened in another process, which forked this one. Load it in this process."
            )

    def check_open(self) -> None:
        """Raises EdgeLlavaError if it is closed, and in a forked child."""
        self.check_process()
        if self.closed:
            raise EdgeLlavaError(f"{self._name} is closed. Load it again.")

    @contextmanager
    def inside(self) -> Iterator[None]:
        """While inside, the engines stay. Raises as `check_open`."""
        self.check_process()
        with self.visiting():
            self.check_open()
            yield

    @contextmanager
    def visiting(self) -> Iterator[None]:
        """As `inside`, also where it is closed: for what ends then, or holds a lock that those inside may need."""
        if self.is_elsewhere:
            yield
            return
        is_counted = False
        try:
            with self._changed:
                self._inside[threading.get_ident()] += 1
                is_counted = True
            yield
        finally:
            if is_counted:
                self._forget_thread()
                if self.closed and not self._n_closing:
                    self._free_if_empty()

    def close(self, timeout_s: float | None = None) -> None:
        """Stops those inside and returns when the engines are freed, after `timeout_s` at the latest.

        A thread that is inside returns at once; in a forked child it does nothing. Safe to call any number of times.
        """
        if self.is_elsewhere:
            return
        self.closing.set()
        self._stop()
        with self._changed:
            if threading.get_ident() in self._inside:
                return
            self._n_closing += 1
            try:
                self._changed.wait_for(lambda: self._is_freed or not self._inside, timeout_s)
            finally:
                self._n_closing -= 1
        self._free_if_empty()
        with self._changed:
            if threading.get_ident() not in self._inside:
                self._changed.wait_for(lambda: self._is_freed, timeout_s)

    def abandon(self) -> None:
        """What is left to do where the owner was dropped, on whatever thread: stops the work, and waits for nothing.

        The engines free themselves when the last reference to them is gone.
        """
        if self.closed or self.is_elsewhere:
            return
        self.closing.set()
        self._stop()
        warnings.warn(f"{self._name} was dropped without close()", ResourceWarning, stacklevel=2)

    def _forget_thread(self) -> None:
        thread = threading.get_ident()
        with self._changed:
            self._inside[thread] -= 1
            if not self._inside[thread]:
                del self._inside[thread]
            self._changed.notify_all()

    def _free_if_empty(self) -> None:
        with self._changed:
            if self._inside or self._is_taken:
                return
            # first: from here on a signal handler on this thread sees it inside, and does not wait for it
            self._inside[threading.get_ident()] += 1
            is_mine, self._is_taken = not self._is_taken, True
        try:
            if is_mine:
                self._free()
        finally:
            with self._changed:
                self._is_freed = self._is_freed or is_mine
                self._forget_thread()


def _close_all() -> None:
    """A thread inside an engine must not be torn down with the process."""
    for gate in list(_gates):
        gate.close(_EXIT_S)


_gates = weakref.WeakSet[Gate]()
# the first finalizer registers weakref's own exit function; ours comes after it, and so runs before it
weakref.finalize(_close_all, int)
atexit.register(_close_all)
