"""One line per request, and counts of them. Neither contains anything that a client wrote."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterable
from typing import Protocol

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge_llava.runtime.answer import FinishReason
from edge_llava.runtime.engine.answer import Answer
from edge_llava.server.http.errors import unavailable
from edge_llava.server.http.request_counts import RequestCounts

_log = logging.getLogger("edge_llava.server")
_STREAM = "edge_llava.stream"
_ALIVE = "/health"
_QUIET = (_ALIVE, "/metrics", "/page/")
_NO_SNIFFING = (b"x-content-type-options", b"nosniff")


class AnswerStream(Protocol):
    """An answer as the log sees it.

    Attributes:
        answer: The engine's answer; None before it has begun.
        finish_reason: Why it ended; None before.
    """

    answer: Answer | None
    finish_reason: FinishReason | None


def note_answer(request: Request, stream: AnswerStream) -> None:
    """Lets the log report how a request's answer ended."""
    request.scope[_STREAM] = stream


class LogRequests:
    """Middleware that counts, times and logs requests, assigns each an id, and limits how many are open."""

    def __init__(self, app: ASGIApp, counts: RequestCounts, n_requests: int) -> None:
        self._app, self._counts, self._n_requests = app, counts, n_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id, status, started = f"req_{uuid.uuid4().hex}", 0, time.perf_counter()

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = _with_own(message.get("headers", ()), request_id)
            await send(message)

        self._counts.n_open += 1
        try:
            if self._counts.n_open > self._n_requests and scope["path"] != _ALIVE:  # busy is not dead
                await unavailable("Too many requests are open.").response()(scope, receive, note_status)
            else:
                await self._app(scope, receive, note_status)
        except ClientDisconnect:
            pass  # the client is gone: the status stays 0
        finally:
            self._counts.n_open -= 1
            seconds = time.perf_counter() - started
            stream: AnswerStream | None = scope.get(_STREAM)
            route = _route(scope)
            self._counts.note(route, status, seconds, stream.answer if stream is not None else None)
            level = logging.DEBUG if route.startswith(_QUIET) else logging.INFO
            _log.log(level, "%s %s %s %.2f s%s", scope["method"], route, status or "left", seconds, _describe(stream))


def _with_own(headers: Iterable[tuple[bytes, bytes]], request_id: str) -> list[tuple[bytes, bytes]]:
    """Adds the headers that all answers have."""
    others = [pair for pair in headers if pair[0].lower() != _NO_SNIFFING[0]]
    return [*others, _NO_SNIFFING, (b"x-request-id", request_id.encode())]


def _route(scope: Scope) -> str:
    """The path of the route that matched the request."""
    route = scope.get("route")
    return str(route.path) if route is not None else "(no such path)"


def _describe(stream: AnswerStream | None) -> str:
    if stream is None or stream.answer is None:
        return ""
    answer = stream.answer
    return f", {answer.n_prompt_tokens} + {answer.n_tokens} tokens, {stream.finish_reason or 'left'}"
