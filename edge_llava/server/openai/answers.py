"""The answers that are being computed: started for a request, read by the event loop, cancelled if unread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

from edge_llava.errors import EdgeLlavaError, QueueFull
from edge_llava.runtime.answer import FinishReason, Token
from edge_llava.runtime.dialogue.messages import Message, Prompt
from edge_llava.runtime.dialogue.past_turns import OnFull
from edge_llava.runtime.engine.answer import Answer
from edge_llava.runtime.model import LlavaModel
from edge_llava.runtime.options import SamplingOptions
from edge_llava.server.http.errors import RequestError, too_busy, unavailable
from edge_llava.server.http.thread_call import call_on_thread
from edge_llava.server.openai.engine_errors import engine_error


class TokenStream:
    """Tokens of one answer, passed from the engine's thread to the event loop. Created on the loop's thread.

    The engine never waits: tokens that a slow client has not read yet are kept here, and an answer is short.

    Attributes:
        answer: The engine's answer; None before it has begun.
        finish_reason: That of the last token that was read; None before.
    """

    def __init__(self, engine: LlavaModel) -> None:
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._tokens: asyncio.Queue[Token] = asyncio.Queue()
        self.answer: Answer | None = None
        self.finish_reason: FinishReason | None = None
        self._lock = threading.Lock()
        self._is_cancelled = False

    async def begin(
        self, prompt: Prompt, options: SamplingOptions, salt: str = "", on_full: OnFull | None = None
    ) -> Answer:
        """Hands the conversation to the engine, on another thread.

        Args:
            prompt: The conversation, whose images were opened, or a text to continue.
            options: How to sample the answer.
            salt: Its KV cache is shared only with requests of the same salt.
            on_full: What to do if it does not fit; None applies the engine's own `on_full`.

        Raises:
            RequestError: If the engine refuses it.
        """
        try:
            return await call_on_thread(self._submit, prompt, options, salt, on_full)
        except QueueFull as error:
            raise too_busy(error.retry_after_s, str(error)) from error
        except (EdgeLlavaError, ValueError) as error:
            raise engine_error(error) from error

    async def read(self) -> AsyncIterator[list[Token]]:
        """Yields tokens as they arrive, all available ones at once; the last one has a finish reason.

        Raises:
            RequestError: If the answer fails, or the server stops.
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

    def cancel(self) -> None:
        """Cancels the answer, whose slot becomes free. Safe to call twice, and from any thread."""
        with self._lock:
            self._is_cancelled = True
            if self.answer is not None:
                self.answer.cancel()

    def _submit(self, prompt: Prompt, options: SamplingOptions, salt: str, on_full: OnFull | None) -> Answer:
        answer = self._engine.submit(prompt, options, self._push, salt=salt, on_full=on_full)
        with self._lock:
            self.answer = answer
            if self._is_cancelled:
                answer.cancel()
        return answer

    def _push(self, token: Token) -> None:
        with suppress(RuntimeError):  # the loop is closed: the process is being killed
            self._loop.call_soon_threadsafe(self._tokens.put_nowait, token)

    def _fault(self) -> RequestError:
        if self.answer is not None and self.answer.error is not None:
            return engine_error(self.answer.error)
        return unavailable("The server is shutting down; the answer is incomplete.")


class Answers:
    """All answers of a server.

    Attributes:
        engine: The engine that computes them.
        is_stopping: Whether new answers are refused.
    """

    def __init__(self, engine: LlavaModel) -> None:
        self.engine = engine
        self.is_stopping = False
        self._streams: set[TokenStream] = set()
        self._prepared: set[Answer] = set()

    def open(self) -> TokenStream:
        """Opens a stream for one answer. Close it afterwards.

        Raises:
            RequestError: 503 if the server is shutting down.
        """
        if self.is_stopping:
            raise unavailable("The server is shutting down.")
        stream = TokenStream(self.engine)
        self._streams.add(stream)
        return stream

    def close(self, stream: TokenStream) -> None:
        """Ends a request, and cancels its answer if it is not complete."""
        stream.cancel()
        self._streams.discard(stream)

    async def prepare(self, messages: Sequence[Message], salt: str = "", on_full: OnFull | None = None) -> bool:
        """Computes everything that comes before a question. Cancelling the await stops it.

        Args:
            messages: The conversation, whose images were opened, up to the question.
            salt, on_full: As of `TokenStream.begin`.

        Returns:
            Whether it is all there, and was not left to a question that came in the meantime.

        Raises:
            RequestError: If the engine refuses it, or it fails.
        """
        if self.is_stopping:
            raise unavailable("The server is shutting down.")
        loop, over, begun = asyncio.get_running_loop(), asyncio.Event(), list[Answer]()

        def begin() -> None:
            prepared = self.engine.prepare(messages, salt=salt, on_full=on_full)
            if prepared is not None:
                self._prepared.add(prepared)
                begun.append(prepared)
                if self.is_stopping:
                    prepared.cancel()

        def tell() -> None:
            with suppress(RuntimeError):  # the loop is closed: the process is being killed
                loop.call_soon_threadsafe(over.set)

        try:
            await call_on_thread(begin)
            if not begun:
                return True
            begun[0].when_over(tell)
            await over.wait()
        except QueueFull as error:
            raise too_busy(error.retry_after_s, str(error)) from error
        except (EdgeLlavaError, ValueError) as error:
            raise engine_error(error) from error
        finally:
            for prepared in begun:  # the thread is through, also where its caller has left
                prepared.cancel()
                self._prepared.discard(prepared)
        if begun[0].error is not None:
            raise engine_error(begun[0].error)
        return begun[0].finish_reason == "stop"

    def stop(self) -> None:
        """Ends all answers with an error for their clients, and refuses new ones."""
        self.is_stopping = True
        for stream in tuple(self._streams):
            stream.cancel()
        for prepared in tuple(self._prepared):
            prepared.cancel()
