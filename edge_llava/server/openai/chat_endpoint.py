"""A request is read, checked, handed to the engine, and answered, in the form of the API that it came by."""

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
from edge_llava.server.http.client_presence import while_present
from edge_llava.server.http.event_stream import EventStream
from edge_llava.server.http.limits import Limits
from edge_llava.server.http.memory_budget import MemoryBudget, Share
from edge_llava.server.http.request_body import OpenBodies, parse_body, parsing_bytes, read_body
from edge_llava.server.http.request_log import note_answer
from edge_llava.server.http.thread_call import call_on_thread
from edge_llava.server.images.image_parts import ImageParts, truncated_headers
from edge_llava.server.openai.answer_logprobs import AnswerLogprobs
from edge_llava.server.openai.answers import Answers, TokenStream
from edge_llava.server.openai.api_form import ApiForm
from edge_llava.server.openai.cache_salt import own_salt
from edge_llava.server.openai.chat_completion import ChatCompletion
from edge_llava.server.openai.chat_messages import ChatMessage
from edge_llava.server.openai.chat_request import ChatRequest, read_chat_request
from edge_llava.server.openai.errors import RequestFault
from edge_llava.server.openai.ignored_fields import IgnoredLog, ignored_headers
from edge_llava.server.openai.responses_form import ResponsesForm
from edge_llava.server.openai.served_models import ServedModels
from edge_llava.server.openai.text_completion import TextCompletionForm


@dataclass(frozen=True)
class _Begun:
    """A request that is being answered."""

    wanted: ChatRequest
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
        self._private_cache, self._strict = private_cache, strict
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

    async def answer(self, request: Request, form: ApiForm) -> Response:
        """The answer, at once or as a stream.

        Args:
            request: What was sent.
            form: A new one of the API that it came by.

        Raises:
            RequestFault: If the request cannot be answered.
            ClientDisconnect: If the client leaves.
        """
        with ExitStack() as held:
            stream = self._answers.open()
            held.callback(self._answers.close, stream)
            share = held.enter_context(self._budget.open())
            body = await read_body(request, self._limits, share, any_type=form.takes_any_type)
            begun = await while_present(request.receive, self._begin(request, body, stream, share, form))
            if begun is None:
                return JSONResponse(form.reply)
            wanted = begun.wanted
            note_answer(request, stream)
            ignored = tuple(dict.fromkeys((*form.ignored, *wanted.ignored)))
            self._ignored.note(ignored)
            headers = ignored_headers(ignored) | truncated_headers(begun.images) | _dropped_header(begun.answer)
            completion = ChatCompletion(self._models.name, begun.answer)
            if wanted.stream:
                return EventStream(
                    form.events(_list_chunks(stream, completion, wanted, form)),
                    held.pop_all().close,
                    stalled_s=self._limits.stalled_s,
                    media_type=form.media_type,
                    beat=form.beat,
                    headers=headers,
                )
            tokens = await while_present(request.receive, _read_whole(stream))
            return JSONResponse(form.whole(_write_whole(tokens, completion, wanted)), headers=headers)

    async def _begin(
        self, request: Request, body: bytearray, stream: TokenStream, share: Share, form: ApiForm
    ) -> _Begun | None:
        with share.borrow(parsing_bytes(body)):
            wanted = await call_on_thread(_parse, body, self._limits, form, self._strict)
        body.clear()  # what it took is what the texts take that were read from it
        if wanted is None:
            return None
        try:
            self._models.check(wanted.model)
            addresses = [image for message in wanted.messages for image in message.images]
            bodies: OpenBodies = request.app.state.bodies
            with bodies.reading():
                images = await self._images.open(addresses, share)
            prompt = RawPrompt(wanted.messages[0].text) if form.is_raw else _place(wanted.messages, images)
            salt = wanted.salt or (own_salt() if self._private_cache else "")
            return _Begun(wanted, images, await stream.begin(prompt, wanted.options, salt, wanted.on_full))
        except RequestFault as fault:
            raise form.renamed(fault) from fault


def _dropped_header(answer: Answer) -> dict[str, str]:
    """Says how many earlier questions the model does not see, where the context was full."""
    return {"X-Edge-Llava-Dropped-Turns": str(answer.n_dropped)} if answer.n_dropped else {}


def _parse(body: bytearray, limits: Limits, form: ApiForm, strict: bool) -> ChatRequest | None:
    chat = form.read(parse_body(body))
    if chat is None:
        return None
    try:
        return read_chat_request(chat, limits, strict=strict)
    except RequestFault as fault:
        raise form.renamed(fault) from fault


def _place(messages: Iterable[ChatMessage], images: Sequence[Image]) -> list[Message]:
    coming = iter(images)
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


async def _list_chunks(
    stream: TokenStream, completion: ChatCompletion, wanted: ChatRequest, form: ApiForm
) -> AsyncGenerator[list[dict[str, Any]], None]:
    # where usage is asked for, every chunk has the field
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
    except RequestFault as fault:  # too late for a status
        yield [form.renamed(fault).body]
        return
    yield [completion.closing(stream.finish_reason) | extra]
    if wanted.include_usage:
        yield [completion.counts()]
