"""Calls on threads, and what remains of them after a cancellation."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from edge_llava.server.http.thread_call import call_on_thread


class Body:
    """Something large that a client sent."""


def fail(error: Exception) -> None:
    raise error


async def soon() -> None:
    """Lets the event loop run everything that is due."""
    for _ in range(5):
        await asyncio.sleep(0.001)


def test_gives_and_raises_what_the_function_does() -> None:
    async def run() -> None:
        assert await call_on_thread(max, 3, 5) == 5
        assert await call_on_thread(threading.get_ident) != threading.get_ident()
        with pytest.raises(KeyError, match="wrong"):
            await call_on_thread(fail, KeyError("wrong"))

    asyncio.run(run())


@pytest.mark.parametrize("error", [None, ValueError("late")])
def test_one_that_has_begun_is_waited_for(error: Exception | None) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work(body: Body) -> None:
        begun.set()
        assert go_on.wait(60)
        if error is not None:
            raise error

    async def run() -> None:
        complaints: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        calling = asyncio.ensure_future(call_on_thread(work, Body()))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        for _ in range(3):  # however often it is cancelled
            calling.cancel()
            await soon()
            assert not calling.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await calling
        await soon()
        assert complaints == []

    asyncio.run(run())


def test_one_that_has_not_begun_forgets_its_arguments_at_once() -> None:
    """Even though the only thread is busy, and its queue cannot be shortened."""
    go_on, done = threading.Event(), []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        busy = loop.run_in_executor(None, go_on.wait, 60)
        bodies = [Body() for _ in range(3)]
        left = [weakref.ref(body) for body in bodies]
        calling = [asyncio.ensure_future(call_on_thread(done.append, body)) for body in bodies]
        bodies.clear()
        await soon()
        assert [body() is not None for body in left] == [True] * 3
        while calling:
            calling[-1].cancel()
            with pytest.raises(asyncio.CancelledError):
                await calling.pop()
        await soon()
        gc.collect()
        n_left = sum(body() is not None for body in left)
        go_on.set()
        assert n_left == 0
        assert await busy
        assert await call_on_thread(len, done) == 0

    asyncio.run(run())
