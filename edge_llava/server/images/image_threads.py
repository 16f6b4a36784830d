"""Threads that decode images, and nothing else: a slow image delays other images, but no other request.

They are daemon threads outside of asyncio's and `concurrent.futures`' pools, which are joined when the process ends:
an image that takes minutes to decode must delay neither the questions of others nor the end of the server.
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
from edge_llava.server.http.memory_budget import Share

_N_THREADS = 2
_Result = TypeVar("_Result")


class _Work(Generic[_Result]):
    """A call that was asked for, until it has been made or forgotten."""

    def __init__(self, call: Callable[[], _Result]) -> None:
        self.future: Future[_Result] = Future()
        self._calls = [call]  # a list, so that forgetting it frees the arguments at once

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
    """Calls functions on a few threads, in the order they were asked for."""

    def __init__(self, n_threads: int = _N_THREADS) -> None:
        """
        Args:
            n_threads: Calls at a time; the threads are started with the first one.
        """
        self._n_threads = n_threads
        self._is_started = False
        self._line: queue.SimpleQueue[_Work[Any]] = queue.SimpleQueue()

    async def call(self, share: Share, function: Callable[..., _Result], *arguments: Any) -> _Result:
        """What a function returns.

        A cancellation is over at once: a call that has not begun is never made and forgets its arguments; one that
        has begun runs to its end, and until then the share stays held.

        Args:
            share: What the request holds, the arguments among it.
            function: Must not touch the event loop.
            arguments: Of the function.
        """
        self._start()
        work = _Work(partial(function, *arguments))
        share.retain()
        work.future.add_done_callback(lambda _: share.release())
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
