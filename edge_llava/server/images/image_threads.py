"""Threads that only decode images: a slow image delays other images, but no other request.

They are daemon threads outside of the pools of asyncio and `concurrent.futures`, which are joined when the process
ends: an image that takes minutes to decode must delay neither other questions nor the server's shutdown.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, Generic, TypeVar

from edge_llava.runtime.lifetime.caught import Caught
from edge_llava.server.http.memory_budget import MemoryLease

_N_THREADS = 2
_Result = TypeVar("_Result")


class _Work(Generic[_Result]):
    """A call that was requested, until it is made or dropped."""

    def __init__(self, call: Callable[[], _Result]) -> None:
        self.future: Future[_Result] = Future()
        self._calls = [call]  # a list, so that dropping it frees the arguments at once

    def run(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        with Caught() as caught:
            result = self._calls.pop()()
        if caught.error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(caught.error)

    def forget(self) -> None:
        if self.future.cancel():
            self._calls.clear()


class ImageThreads:
    """Calls functions on a few threads, in the order of the requests."""

    def __init__(self, n_threads: int = _N_THREADS) -> None:
        """
        Args:
            n_threads: Number of threads; they are started by the first call.
        """
        self._n_threads = n_threads
        self._is_started = False
        self._line: queue.SimpleQueue[_Work[Any]] = queue.SimpleQueue()

    async def call(self, lease: MemoryLease, function: Callable[..., _Result], *arguments: Any) -> _Result:
        """Calls a function and returns its result.

        A cancellation takes effect at once: a call that has not started is dropped with its arguments; one that has
        started runs to its end, and keeps the lease until then.

        Args:
            lease: Counts the memory of the request, including the arguments.
            function: Must not touch the event loop.
            arguments: Arguments of the function.
        """
        self._start()
        work = _Work(partial(function, *arguments))
        lease.retain()
        work.future.add_done_callback(lambda _: lease.release())
        self._line.put(work)
        try:
            return await asyncio.wrap_future(work.future)
        except asyncio.CancelledError:
            work.forget()
            raise

    def _start(self) -> None:
        if not self._is_started:
            self._is_started = True
            for number in range(1, self._n_threads + 1):
                threading.Thread(target=self._work, name=f"edge-llava-image-{number}", daemon=True).start()

    def _work(self) -> None:
        while True:
            self._line.get().run()
