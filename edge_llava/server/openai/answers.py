"""The answers that are being computed: begun for a request, read by the event loop, left when nobody reads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import suppress

from edge_llava.errors import EdgeLlavaError, QueueFull
from edge_llava.runtime.answer import FinishReason, Token
from edge_llava.runtime.dialogue.messages import Prompt
from edge_llava.runtime.dialogue.past_turns import OnFull
from edge_llava.runtime.engine.answer import Answer
from edge_llava.runtime.engine.engine import BatchEngine
from edge_llava.runtime.options import SamplingOptions
from edge_llava.server.http.thread_call import call_on_thread
from edge_llava.server.openai.errors import RequestFault, engine_fault, too_busy, unavailable


class TokenStream:
    """Tokens of one answer, on their way from the engine's thread to the event loop. Created on the loop's thread.

    The engine never waits: what a slow client has not read yet lies here, and an answer is short.

    Attributes:
        answer: What the engine says of it; None before it has begun.
        finish_reason: As of the last token that was read; None before.
    """

    def __init__(self, engine: BatchEngine) -> None:
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._tokens: asyncio.Queue[Token] = asyncio.Queue()
        self.answer: Answer | None = None
        self.finish_reason: FinishReason | None = None
        self._lock = threading.Lock()
        self._is_left = False

    async def begin(
        self, prompt: Prompt, options: SamplingOptions, salt: str = "", on_full: OnFull | None = None
    ) -> Answer:
        """Hands the conversation to the engine, on another thread.

        Args:
            prompt: The conversation, whose images were opened, or a text to continue.
            options: How the answer is sampled.
            salt: What is computed for it is shared within this salt only.
            on_full: What happens if it does not fit; None: what the engine's own `on_full` says.

        Raises:
            RequestFault: If the engine refuses it.
        """
        try:
            return await call_on_thread(self._submit, prompt, options, salt, on_full)
        except QueueFull as error:
            raise too_busy(error.retry_after_s, str(error)) from error
        except (EdgeLlavaError, ValueError) as error:
            raise engine_fault(error) from error

    async def read(self) -> AsyncIterator[list[Token]]:
        """Tokens as they come, all at a time that have come since; the last one has a finish reason.

        Raises:
            RequestFault: If the answer fails, or the server stops meanwhile.
        """
        while True:
            tokens = [await self._tokens.get()]
            while not self._tokens.empty():
                tokens.append(self._tokens.get_nowait())
            self.finish_reason = tokens[-1].finish_reason
            if self.finish_reason in ("cancelled", "error"):
                yield tokens[:-1]
                raise self._fault()
            yield tokens
            if self.finish_reason is not None:
                return

    def leave(self) -> None:
        """Nobody reads any more: its place is free for others. Safe to call twice, from any thread."""
        with self._lock:
            self._is_left = True
            if self.answer is not None:
                self.answer.cancel()

    def _submit(self, prompt: Prompt, options: SamplingOptions, salt: str, on_full: OnFull | None) -> Answer:
        answer = self._engine.submit(prompt, options, self._push, salt=salt, on_full=on_full)
        with self._lock:
            self.answer = answer
            if self._is_left:
                answer.cancel()
        return answer

    def _push(self, token: Token) -> None:
        with suppress(RuntimeError):  # the loop is closed: the process is being ended by force
            self._loop.call_soon_threadsafe(self._tokens.put_nowait, token)

    def _fault(self) -> RequestFault:
        if self.answer is not None and self.answer.error is not None:
            return engine_fault(self.answer.error)
        return unavailable("The server stops; the answer is not complete.")


class Answers:
    """All answers of a server.

    Attributes:
        engine: What computes them.
        is_stopping: Whether no more are begun.
    """

    def __init__(self, engine: BatchEngine) -> None:
        self.engine = engine
        self.is_stopping = False
        self._streams: set[TokenStream] = set()

    def open(self) -> TokenStream:
        """A stream for one answer; close it.

        Raises:
            RequestFault: 503 if the server stops.
        """
        if self.is_stopping:
            raise unavailable("The server stops.")
        stream = TokenStream(self.engine)
        self._streams.add(stream)
        return stream

    def close(self, stream: TokenStream) -> None:
        """The request is over; its answer, if it is not, is left."""
        stream.leave()
        self._streams.discard(stream)

    def stop(self) -> None:
        """Ends all answers: their clients are told, and no more are begun."""
        self.is_stopping = True
        for stream in tuple(self._streams):
            stream.leave()
