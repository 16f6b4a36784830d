"""POST /v1/chat/completions: a request is read, checked, handed to the engine, and answered."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import ExitStack
from typing import Any

from PIL import Image
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from edge_llava.runtime.batch.answer import Answer
from edge_llava.runtime.batch.messages import Message
from edge_llava.runtime.token import Token
from edge_llava.server.answer_logprobs import AnswerLogprobs
from edge_llava.server.answers import Answers, TokenStream
from edge_llava.server.chat_completion import ChatCompletion
from edge_llava.server.chat_messages import ChatMessage
from edge_llava.server.chat_request import ChatRequest, read_chat_request
from edge_llava.server.client_presence import while_present
from edge_llava.server.event_stream import DONE, EventStream, event
from edge_llava.server.ignored_fields import IgnoredLog, ignored_headers
from edge_llava.server.image_parts import ImageParts
from edge_llava.server.limits import Limits
from edge_llava.server.memory_budget import MemoryBudget, Share
from edge_llava.server.openai_errors import RequestFault
from edge_llava.server.request_body import parse_body, read_body
from edge_llava.server.request_log import note_answer
from edge_llava.server.served_models import ServedModels
from edge_llava.server.thread_call import call_on_thread


class ChatEndpoint:
    """Answers chat requests."""

    def __init__(
        self,
        answers: Answers,
        models: ServedModels,
        images: ImageParts,
        budget: MemoryBudget,
        limits: Limits,
        *,
        strict: bool = False,
    ) -> None:
        self._answers, self._models, self._images = answers, models, images
        self._budget, self._limits, self._strict = budget, limits, strict
        self._ignored = IgnoredLog()

    async def complete(self, request: Request) -> Response:
        """The answer, at once or as a stream.

        Raises:
            RequestFault: If the request cannot be answered.
            ClientDisconnect: If the client leaves.
        """
        with ExitStack() as held:
            stream = self._answers.open()
            held.callback(self._answers.close, stream)
            share = held.enter_context(self._budget.open())
            body = await read_body(request, self._limits, share)
            wanted, answer = await while_present(request.receive, self._begin(body, stream, share))
            note_answer(request, stream)
            self._ignored.note(wanted.ignored)
            headers = ignored_headers(wanted.ignored) | _dropped_header(answer)
            completion = ChatCompletion(self._models.name, answer)
            if wanted.stream:
                parts = _write_events(stream, completion, wanted)
                return EventStream(parts, held.pop_all().close, stalled_s=self._limits.stalled_s, headers=headers)
            tokens = await while_present(request.receive, _read_whole(stream))
            return JSONResponse(_write_whole(tokens, completion, wanted), headers=headers)

    async def _begin(self, body: bytes, stream: TokenStream, share: Share) -> tuple[ChatRequest, Answer]:
        wanted = await call_on_thread(_parse, body, self._limits, self._strict)
        self._models.check(wanted.model)
        addresses = [image for message in wanted.messages for image in message.images]
        pictures = await self._images.open(addresses, share)
        return wanted, await stream.begin(_place(wanted.messages, pictures), wanted.options, wanted.on_full)


def _dropped_header(answer: Answer) -> dict[str, str]:
    """Says how many earlier questions the model does not see, where the context was full."""
    return {"X-Edge-Llava-Dropped-Turns": str(answer.n_dropped)} if answer.n_dropped else {}


def _parse(body: bytes, limits: Limits, strict: bool) -> ChatRequest:
    return read_chat_request(parse_body(body), limits, strict=strict)


def _place(messages: Iterable[ChatMessage], pictures: Sequence[Image.Image]) -> list[Message]:
    coming = iter(pictures)
    return [Message(m.role, m.text, tuple(next(coming) for _ in m.images), m.places) for m in messages]


async def _read_whole(stream: TokenStream) -> list[Token]:
    return [token async for tokens in stream.read() for token in tokens]


def _write_whole(tokens: Sequence[Token], completion: ChatCompletion, wanted: ChatRequest) -> dict[str, Any]:
    text = "".join(token.text for token in tokens)
    entries = None
    if wanted.options.logprobs is not None:
        logprobs = AnswerLogprobs()
        entries = [entry for token in tokens for entry in logprobs.push(token)]
    return completion.whole(text, tokens[-1].finish_reason, entries)


async def _write_events(
    stream: TokenStream, completion: ChatCompletion, wanted: ChatRequest
) -> AsyncGenerator[bytes, None]:
    # where usage is asked for, every chunk has the field
    extra = {"usage": None} if wanted.include_usage else {}
    logprobs = None if wanted.options.logprobs is None else AnswerLogprobs()
    yield event(completion.opening() | extra)
    try:
        async for tokens in stream.read():
            events = []
            for token in tokens:
                entries = None if logprobs is None else logprobs.push(token)
                if token.text or entries:
                    events.append(event(completion.piece(token.text, entries) | extra))
            if events:
                yield b"".join(events)
    except RequestFault as fault:  # too late for a status
        yield event(fault.body)
        return
    yield event(completion.closing(stream.finish_reason) | extra)
    if wanted.include_usage:
        yield event(completion.counts())
    yield DONE
