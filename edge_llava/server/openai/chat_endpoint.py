"""Reads and checks a request, passes it to the engine, and answers it in the form of its API."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from edge_llava.runtime.answer import Token
from edge_llava.runtime.dialogue.messages import Message, RawPrompt
from edge_llava.runtime.engine.answer import Answer
from edge_llava.runtime.vision.image import Image
from edge_llava.server.http.answer_headers import DROPPED
from edge_llava.server.http.client_presence import while_present
from edge_llava.server.http.errors import RequestError
from edge_llava.server.http.event_stream import EventStream
from edge_llava.server.http.limits import Limits
from edge_llava.server.http.memory_budget import MemoryBudget, MemoryLease
from edge_llava.server.http.request_body import PendingBodies, parse_body, parsing_bytes, read_body
from edge_llava.server.http.request_log import note_answer
from edge_llava.server.http.thread_call import call_on_thread
from edge_llava.server.images.image_parts import ImageParts, truncated_headers
from edge_llava.server.openai.answer_logprobs import AnswerLogprobs
from edge_llava.server.openai.answers import Answers, TokenStream
from edge_llava.server.openai.api_form import ApiForm
from edge_llava.server.openai.cache_salt import own_salt
from edge_llava.server.openai.chat_completion import ChatCompletion
from edge_llava.server.openai.conversation import ChatMessage
from edge_llava.server.openai.generation import ParsedRequest
from edge_llava.server.openai.ignored_fields import IgnoredLog, ignored_headers
from edge_llava.server.openai.request_model import Rules
from edge_llava.server.openai.responses_form import ResponsesForm
from edge_llava.server.openai.served_models import ServedModels
from edge_llava.server.openai.text_completion import TextCompletionForm


@dataclass(frozen=True)
class _Begun:
    """A request that is being answered."""

    wanted: ParsedRequest
    images: Sequence[Image]
    answer: Answer


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
        private_cache: bool = False,
        strict: bool = False,
    ) -> None:
        self._answers, self._models, self._images = answers, models, images
        self._budget, self._limits = budget, limits
        self._private_cache, self._rules = private_cache, Rules(strict)
        self._ignored = IgnoredLog()

    async def complete(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        return await self.answer(request, ApiForm())

    async def respond(self, request: Request) -> Response:
        """POST /v1/responses."""
        return await self.answer(request, ResponsesForm())

    async def continue_text(self, request: Request) -> Response:
        """POST /v1/completions."""
        return await self.answer(request, TextCompletionForm())

    async def prepare(self, request: Request) -> Response:
        """POST /v1/prepare: takes a chat request, and computes what stands before its last message's text.

        It answers when that is done, and stops when the client disconnects.
        """
        with self._budget.open() as lease:
            body = await read_body(request, self._limits, lease)
            is_complete = await while_present(request.receive, self._prepare(request, body, lease))
            return JSONResponse({"object": "preparation", "complete": is_complete})

    async def _prepare(self, request: Request, body: bytearray, lease: MemoryLease) -> bool:
        wanted = await self._read(body, lease, ApiForm())
        if wanted is None or wanted.is_raw:
            return True
        images = await self._open_images(request, wanted, lease)
        return await self._answers.prepare(_place(wanted.messages, images), self._salt(wanted), wanted.on_full)

    async def answer(self, request: Request, form: ApiForm) -> Response:
        """Answers a request, at once or as a stream.

        Args:
            request: The request.
            form: A new form of the request's API.

        Raises:
            RequestError: If the request cannot be answered.
            ClientDisconnect: If the client disconnects.
        """
        with ExitStack() as held:
            stream = self._answers.open()
            held.callback(self._answers.close, stream)
            lease = held.enter_context(self._budget.open())
            body = await read_body(request, self._limits, lease, any_type=form.takes_any_type)
            begun = await while_present(request.receive, self._begin(request, body, stream, lease, form))
            if begun is None:
                return JSONResponse(form.reply)
            wanted = begun.wanted
            note_answer(request, stream)
            self._ignored.note(wanted.ignored)
            headers = ignored_headers(wanted.ignored) | truncated_headers(begun.images) | _dropped_header(begun.answer)
            completion = ChatCompletion(self._models.name, begun.answer)
            if wanted.stream:
                return EventStream(
                    form.events(_list_chunks(stream, completion, wanted)),
                    held.pop_all().close,
                    stalled_s=self._limits.stalled_s,
                    media_type=form.media_type,
                    beat=form.beat,
                    headers=headers,
                )
            tokens = await while_present(request.receive, _read_whole(stream))
            return JSONResponse(form.whole(_write_whole(tokens, completion, wanted)), headers=headers)

    async def _begin(
        self, request: Request, body: bytearray, stream: TokenStream, lease: MemoryLease, form: ApiForm
    ) -> _Begun | None:
        wanted = await self._read(body, lease, form)
        if wanted is None:
            return None
        try:
            images = await self._open_images(request, wanted, lease)
            prompt = RawPrompt(wanted.messages[0].text) if wanted.is_raw else _place(wanted.messages, images)
            answer = await stream.begin(prompt, wanted.options, self._salt(wanted), wanted.on_full)
            return _Begun(wanted, images, answer)
        except RequestError as error:
            error.param = wanted.places.get(error.param or "", error.param)
            raise

    async def _read(self, body: bytearray, lease: MemoryLease, form: ApiForm) -> ParsedRequest | None:
        with lease.borrow(parsing_bytes(body)):
            wanted = await call_on_thread(_parse, body, self._limits, form, self._rules)
        body.clear()  # its memory is now counted as that of the texts read from it
        return wanted

    async def _open_images(self, request: Request, wanted: ParsedRequest, lease: MemoryLease) -> Sequence[Image]:
        self._models.check(wanted.model)
        addresses = [image for message in wanted.messages for image in message.images]
        bodies: PendingBodies = request.app.state.bodies
        with bodies.reading():
            return await self._images.open(addresses, lease)

    def _salt(self, wanted: ParsedRequest) -> str:
        return wanted.salt or (own_salt() if self._private_cache else "")


def _dropped_header(answer: Answer) -> dict[str, str]:
    """The header that states how many earlier questions were dropped; none if all fit."""
    return {DROPPED: str(answer.n_dropped)} if answer.n_dropped else {}


def _parse(body: bytearray, limits: Limits, form: ApiForm, rules: Rules) -> ParsedRequest | None:
    return form.read(parse_body(body), rules, limits)


def _place(messages: Iterable[ChatMessage], images: Sequence[Image]) -> list[Message]:
    coming = iter(images)
    return [Message(m.role, m.text, tuple(next(coming) for _ in m.images), m.places) for m in messages]


async def _read_whole(stream: TokenStream) -> list[Token]:
    return [token async for tokens in stream.read() for token in tokens]


def _write_whole(tokens: Sequence[Token], completion: ChatCompletion, wanted: ParsedRequest) -> dict[str, Any]:
    text = "".join(token.text for token in tokens)
    entries = None
    if wanted.options.logprobs is not None:
        logprobs = AnswerLogprobs()
        entries = [entry for token in tokens for entry in logprobs.push(token)]
    return completion.whole(text, tokens[-1].finish_reason, entries)


async def _list_chunks(
    stream: TokenStream, completion: ChatCompletion, wanted: ParsedRequest
) -> AsyncGenerator[list[dict[str, Any]], None]:
    # if usage is requested, every chunk has the field
    extra = {"usage": None} if wanted.include_usage else {}
    logprobs = None if wanted.options.logprobs is None else AnswerLogprobs()
    yield [completion.opening() | extra]
    try:
        async for tokens in stream.read():
            pieces = []
            for token in tokens:
                entries = None if logprobs is None else logprobs.push(token)
                if token.text or entries:
                    pieces.append(completion.piece(token.text, entries) | extra)
            if pieces:
                yield pieces
    except RequestError as error:  # too late for a status
        error.param = wanted.places.get(error.param or "", error.param)
        yield [error.body]
        return
    yield [completion.closing(stream.finish_reason) | extra]
    if wanted.include_usage:
        yield [completion.counts()]
