"""Failed requests: the status, and the error object of the API that the client uses."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

_CODES = {404: "unknown_url", 405: "method_not_allowed"}


class RequestError(Exception):
    """A request that is answered with an error. It is never raised outside of the server.

    Attributes:
        status: HTTP status.
        code: OpenAI's code for the error.
        param: The field of the request that is wrong, such as "messages[0].content".
        headers: Additional response headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.headers = status, code, param, dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """OpenAI's error object. Unpaired surrogates, which a client's names may contain, become question marks."""
        param = None if self.param is None else _replace_surrogates(self.param)
        message = _replace_surrogates(str(self))
        return {"error": {"message": message, "type": _type_of(self.status), "param": param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The HTTP response."""
        return _ErrorResponse(self.body, self.status, self.headers)


class _ErrorResponse(JSONResponse):
    """An error in the form of the path's API: OpenAI's object, or below /api/ Ollama's, whose error is a string."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["path"].startswith("/api/"):
            error = json.loads(bytes(self.body))["error"]
            headers = {name: value for name, value in self.headers.items() if not name.startswith("content-")}
            await JSONResponse({"error": error["message"]}, self.status_code, headers)(scope, receive, send)
            return
        await super().__call__(scope, receive, send)


def too_busy(retry_after_s: float, message: str) -> RequestError:
    """Returns a 429 with the number of seconds after which to retry."""
    seconds = str(max(1, math.ceil(retry_after_s)))
    return RequestError(429, message, code="rate_limit_exceeded", headers={"Retry-After": seconds})


def unavailable(message: str) -> RequestError:
    """Returns a 503: the request is valid, and another server may answer it."""
    return RequestError(503, message, code="server_unavailable", headers={"Retry-After": "5"})


def no_memory() -> RequestError:
    """Returns a 503: there may be enough memory later."""
    return unavailable("There is currently not enough memory for this request.")


def internal_error() -> RequestError:
    """Returns a 500 that reveals no internals."""
    return RequestError(500, "The server failed to answer; see its log.", code="internal_error")


async def show_error(request: Request, error: Exception) -> JSONResponse:
    """Answers a RequestError."""
    assert isinstance(error, RequestError)
    return error.response()


async def show_http_error(request: Request, error: Exception) -> JSONResponse:
    """Answers a request that the router refuses because its path or method is not served."""
    assert isinstance(error, HTTPException)
    message = f"Unknown request URL: {request.method} {request.url.path}."
    if error.status_code == 405:
        message = f"{request.method} is not served at {request.url.path}."
    code = _CODES.get(error.status_code)
    return RequestError(error.status_code, message, code=code, headers=error.headers).response()


def _replace_surrogates(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _type_of(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"
