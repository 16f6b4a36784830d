"""A thread that does one piece of work after another."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from edge_llava.runtime.lifetime.caught import Caught

THREAD_PREFIX = "edge-llava"  # of the names of all our threads
_Result = TypeVar("_Result")
_Items = SimpleQueue["tuple[Future[Any], Callable[[], Any]] | None"]


class WorkThread:
    """One daemon thread, started by the first piece of work; it ends when this is closed or dropped.

    Unlike a ThreadPoolExecutor of one thread, it takes work while the interpreter waits for the program's last threads,
    and it does not hold up the end of the process until all waiting work is done.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._items: _Items = SimpleQueue()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_closed = False
        weakref.finalize(self, self._items.put, None).atexit = False

    @property
    def n_waiting(self) -> int:
        """Pieces of work that were not begun."""
        return self._items.qsize()

    def submit(self, work: Callable[..., _Result], *arguments: Any) -> Future[_Result]:
        """Puts a piece of work behind all others.

        Raises:
            RuntimeError: If this was closed.
        """
        future = Future[_Result]()
        with self._starting:
            if self._is_closed:
                raise RuntimeError(f"the thread {self._name} takes no more work")
            if self._thread is None:
                self._thread = threading.Thread(target=_work_off, args=(self._items,), name=self._name, daemon=True)
                self._thread.start()
            self._items.put((future, lambda: work(*arguments)))
        return future

    def close(self, *, wait: bool = True) -> None:
        """Takes no more work, and ends after the rest; safe to call twice.

        Args:
            wait: Drop the work that was not begun, and return when the thread has ended.
        """
        with self._starting:
            self._is_closed = True
        with suppress(Empty):
            while wait:  # until there is none
                if (item := self._items.get_nowait()) is not None:
                    item[0].cancel()
        self._items.put(None)
        if wait and self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()


def run_aside(work: Callable[[], _Result]) -> _Result:
    """Runs a function on a thread of its own and returns its result: for work in C that calls Python back.

    Python runs signal handlers on the main thread only. One that raised inside a callback from C (llama.cpp's log)
    would be swallowed there; on this thread, which waits in Python, it is raised as soon as the work is done.
    """
    thread = WorkThread("edge-llava-load")
    future = thread.submit(work)
    thread.close(wait=False)
    try:
        return future.result()
    finally:
        futures.wait([future])  # what it made is dropped here, and not while it is being made


def _work_off(items: _Items) -> None:
    while (item := items.get()) is not None:
        _do(*item)
        del item  # nothing is kept alive while the next one is awaited


def _do(future: Future[Any], work: Callable[[], Any]) -> None:
    if future.set_running_or_notify_cancel():
        result = None
        with Caught() as caught:
            result = work()
        if caught.error is None:
            future.set_result(result)
        else:
            future.set_exception(caught.error)
        del caught, result
    del future, work  # an error's traceback refers to this frame
