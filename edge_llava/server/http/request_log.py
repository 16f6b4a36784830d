"""One line per request, and counts of them. Neither contains anything that a client wrote."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterable

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge_llava.server.http.request_counts import RequestCounts
from edge_llava.server.openai.answers import TokenStream
from edge_llava.server.openai.errors import unavailable

_log = logging.getLogger("edge_llava.server")
_STREAM = "edge_llava.stream"
_ALIVE = "/health"
_QUIET = (_ALIVE, "/metrics", "/page/")
_NO_SNIFFING = (b"x-content-type-options", b"nosniff")


def note_answer(request: Request, stream: TokenStream) -> None:
    """Lets the log say what became of a request's answer."""
    request.scope[_STREAM] = stream


class LogRequests:
    """Middleware: counts, times and logs requests, gives each an id, and refuses those beyond a number at a time."""

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
                await unavailable("Too many requests at a time.").response()(scope, receive, note_status)
            else:
                await self._app(scope, receive, note_status)
        except ClientDisconnect:
            pass  # there is nobody to answer: the status stays 0
        finally:
            self._counts.n_open -= 1
            seconds = time.perf_counter() - started
            stream: TokenStream | None = scope.get(_STREAM)
            route = _route(scope)
            self._counts.note(route, status, seconds, stream.answer if stream is not None else None)
            level = logging.DEBUG if route.startswith(_QUIET) else logging.INFO
            _log.log(level, "%s %s %s %.2f s%s", scope["method"], route, status or "left", seconds, _describe(stream))


def _with_own(headers: Iterable[tuple[bytes, bytes]], request_id: str) -> list[tuple[bytes, bytes]]:
    """The headers of an answer, with those that all answers have."""
    others = [pair for pair in headers if pair[0].lower() != _NO_SNIFFING[0]]
    return [*others, _NO_SNIFFING, (b"x-request-id", request_id.encode())]


def _route(scope: Scope) -> str:
    """Where the request went, as the server calls it."""
    route = scope.get("route")
    return str(route.path) if route is not None else "(no such path)"


def _describe(stream: TokenStream | None) -> str:
    if stream is None or stream.answer is None:
        return ""
    answer = stream.answer
    return f", {answer.n_prompt_tokens} + {answer.n_tokens} tokens, {stream.finish_reason or 'left'}"
