"""An answer as an asynchronous iterator: computed on a thread of its own, read by the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import Future
from contextlib import closing
from typing import TYPE_CHECKING, cast

from edge_llava.runtime.lifetime.work_thread import WorkThread

if TYPE_CHECKING:
    from edge_llava.runtime.answer import Token
    from edge_llava.runtime.session import Session


class AsyncAnswer(AsyncIterator["Token"]):
    """The tokens of one answer, for `async for`. Made by `Session.ask_async()`.

    Nothing happens before it is read. Then one thread asks and computes, without waiting for the reader, so that a slow
    reader holds up nobody else; what `ask()` raises is raised by the first step. Cancelling the task that reads,
    leaving the loop, and `aclose()` stop the answer wherever it is. The conversation keeps what was computed until
    then: perhaps a few tokens more than were read.
    """

    def __init__(self, session: Session, ask: Callable[[], Iterator[Token]]) -> None:
        """
        Args:
            session: Whose answer it is.
            ask: Asks it.
        """
        self._session = session
        self._reading = _Reading(ask)
        self._arrived: asyncio.Queue[Token | None] = asyncio.Queue()  # None from when the thread has ended
        self._work: Future[None] | None = None  # the thread's; None before the first step
        self._has_ended = False

    def __aiter__(self) -> AsyncAnswer:
        return self

    async def __anext__(self) -> Token:
        if self._has_ended:
            raise StopAsyncIteration
        self._session.check_process()
        if self._work is None:
            self._work = self._reading.start(asyncio.get_running_loop(), self._arrived)
        try:
            token = await self._receive()
        except asyncio.CancelledError:
            await self.aclose()
            raise
        if token is not None:
            return token
        self._has_ended = True
        self._work.result()  # raises what the thread raised
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Ends the answer, and waits until its thread has; from any task of the loop."""
        self._session.check_process()
        self._leave()
        while self._work is not None and not self._has_ended:
            self._has_ended = await self._receive() is None
        self._has_ended = True

    async def _receive(self) -> Token | None:
        token = await self._arrived.get()
        if token is None:
            self._arrived.put_nowait(None)  # for another task that reads or closes, too
        return token

    def __del__(self) -> None:
        self._leave()

    def _leave(self) -> None:
        if self._session.is_elsewhere:  # a forked child has neither the thread nor the loop
            return
        if self._work is not None and not self._work.done():
            self._reading.is_stopped = True
            if self._reading.is_answering:
                self._session.abandon(self._work)


class _Reading:
    """What the thread does. It knows nothing of the AsyncAnswer, which may be dropped meanwhile.

    Attributes:
        is_stopped: Set from outside: nobody wants more.
        is_answering: The question was asked, so that the session is busy, or about to be.
    """

    def __init__(self, ask: Callable[[], Iterator[Token]]) -> None:
        self.is_stopped = self.is_answering = False
        self._ask = ask

    def start(self, loop: asyncio.AbstractEventLoop, arrived: asyncio.Queue[Token | None]) -> Future[None]:
        """Begins to read, and hands every token to the loop, and None at the end."""

        def hand_over(token: Token | None) -> None:
            try:
                loop.call_soon_threadsafe(arrived.put_nowait, token)
            except RuntimeError:  # the loop was closed
                self.is_stopped = True

        thread = WorkThread("edge-llava-answer")
        work = thread.submit(self._read, hand_over)
        work.add_done_callback(lambda _: hand_over(None))
        thread.close(wait=False)
        return work

    def _read(self, hand_over: Callable[[Token], None]) -> None:
        with closing(cast("Generator[Token, None, None]", self._ask())) as answer:
            self.is_answering = True
            # after ask(), which forgets an earlier cancel(), and after every token
            while not self.is_stopped and (token := next(answer, None)) is not None:
                hand_over(token)
