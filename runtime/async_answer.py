"""An answer of a session as an asynchronous iterator. Apart from the other, since few programs import asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future

from edge_llava.runtime.answer import Token
from edge_llava.runtime.lifetime.gate import Gate
from edge_llava.runtime.lifetime.work_thread import WorkThread
from edge_llava.runtime.turn import Turn


class AsyncAnswer(AsyncIterator[Token]):
    """The tokens of one answer, for `async for`. Made by `Session.ask_async()`.

    Nothing happens before it is read; what `ask()` raises is raised by the first step. Images are opened and text is
    read on another thread, so that the event loop is never blocked. Cancelling the task that reads, leaving the loop,
    and `aclose()` stop the answer wherever it is.
    """

    def __init__(self, gate: Gate, begin: Callable[[Callable[[Token | None], None]], Turn]) -> None:
        """`begin` asks, and has every token, and None after the last, handed to a function on another thread."""
        self._gate, self._begin = gate, begin
        self._arrived: asyncio.Queue[Token | None] = asyncio.Queue()  # None once nothing more comes
        self._begun: Future[Turn] | None = None  # None before the first step
        self._has_ended = False

    async def __anext__(self) -> Token:
        if self._has_ended:
            raise StopAsyncIteration
        self._gate.check_process()
        if self._begun is None:
            self._begun = self._start(asyncio.get_running_loop())
        try:
            token = await self._receive()
        except asyncio.CancelledError:
            await self.aclose()
            raise
        self._has_ended = True  # unless a token comes that is not the last
        turn = self._begun.result()  # raises what asking raised
        token = token and turn.read(token)
        if token is not None and token.finish_reason is None:
            self._has_ended = False
            return token
        turn.leave()
        if token is not None and token.finish_reason != "error":
            return token
        await self._receive_end()
        turn.raise_error()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Ends the answer, and waits until it has; from any task of the loop."""
        self._gate.check_process()
        self._has_ended = True
        self._leave()
        if self._begun is not None:
            await self._receive_end()

    def _start(self, loop: asyncio.AbstractEventLoop) -> Future[Turn]:
        arrived, begin = self._arrived, self._begin  # and not self, which may be dropped at any time

        def hand_over(token: Token | None) -> None:
            try:
                loop.call_soon_threadsafe(arrived.put_nowait, token)
            except RuntimeError:  # the loop was closed
                if token is not None:
                    begun.add_done_callback(_leave_turn)

        thread = WorkThread("edge-llava-ask")
        begun = thread.submit(begin, hand_over)
        begun.add_done_callback(lambda done: hand_over(None) if done.exception() is not None else None)
        thread.close(wait=False)
        return begun

    async def _receive_end(self) -> None:
        while await self._receive() is not None:
            pass

    async def _receive(self) -> Token | None:
        token = await self._arrived.get()
        if token is None:
            self._arrived.put_nowait(None)  # for another task that reads or closes, too
        return token

    def __del__(self) -> None:
        self._leave()

    def _leave(self) -> None:
        if self._begun is not None and not self._gate.is_elsewhere:  # a forked child has neither thread nor loop
            self._begun.add_done_callback(_leave_turn)


def _leave_turn(begun: Future[Turn]) -> None:
    if begun.exception() is None:
        begun.result().leave()
