"""Calls a function on another thread, and leaves nothing behind when the caller is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

_Result = TypeVar("_Result")


async def call_on_thread(function: Callable[..., _Result], *arguments: Any) -> _Result:
    """Calls a function that would block the event loop, and returns its result.

    This works like `asyncio.to_thread`, but a cancellation ends only when nothing refers to the arguments any more: a
    function that has not started never does, and one that has is awaited. The caller may then stop counting them.
    """
    call = [partial(function, *arguments)]  # only one thread can pop it
    working = asyncio.ensure_future(asyncio.to_thread(_call, call))
    try:
        await asyncio.wait({working})
    except asyncio.CancelledError:
        await _end(call, working)
        raise
    return working.result()


def _call(call: list[partial[_Result]]) -> _Result:
    return call.pop()()


async def _end(call: list[partial[_Result]], working: asyncio.Task[_Result]) -> None:
    with suppress(IndexError):  # it has begun
        call.pop()
        working.cancel()  # what remains in the pool's queue is empty
    while not working.done():
        with suppress(asyncio.CancelledError):  # of a caller that is being cancelled already
            await asyncio.wait({working})
    if not working.cancelled():
        working.exception()  # retrieved, so that asyncio does not log it
