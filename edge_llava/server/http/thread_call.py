"""A function on another thread, of which nothing is left once whoever waits for it has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

_Result = TypeVar("_Result")


async def call_on_thread(function: Callable[..., _Result], *arguments: Any) -> _Result:
    """What a function gives that would keep the event loop from others.

    As `asyncio.to_thread`, but a cancellation is over only when nothing holds the arguments any more: a function that
    has not begun never does and forgets them, one that has is waited for. So whoever counts them may stop counting.
    """
    call = [partial(function, *arguments)]  # whoever pops it has it alone
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
        working.cancel()  # what stays in line for a thread is empty
    while not working.done():
        with suppress(asyncio.CancelledError):  # of one who is being cancelled already
            await asyncio.wait({working})
    if not working.cancelled():
        working.exception()  # nobody else wants to know
