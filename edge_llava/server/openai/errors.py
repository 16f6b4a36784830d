"""What a client is told when a request fails: a status, and the error object of the API that it uses."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from edge_llava.device.memory import is_out_of_memory
from edge_llava.errors import ContextOverflow, EdgeLlavaError, ImageError
from edge_llava.runtime.language.grammar import GrammarFault

_MAX_LISTED = 10  # faults in one message
_CODES = {404: "unknown_url", 405: "method_not_allowed"}


@dataclass(frozen=True)
class Fault:
    """One wrong field of a request.

    Attributes:
        param: Where it stands: "messages[0].content".
        message: What is wrong, in words.
        code: OpenAI's word for it.
    """

    param: str
    message: str
    code: str = "invalid_value"


class RequestFault(Exception):
    """A request that is answered with an error. Never leaves the server.

    Attributes:
        status: HTTP status.
        body: The JSON object to send.
        headers: To send beside it.
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
        self.status, self.headers = status, dict(headers or {})
        self.body = error_body(message, _type_of(status), code, param)

    def response(self) -> JSONResponse:
        """What is sent."""
        return _ErrorResponse(self.body, self.status, self.headers)


class _ErrorResponse(JSONResponse):
    """An error as the API of the path has it: OpenAI's object, below /api/ Ollama's, whose error is a text."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["path"].startswith("/api/"):
            error = json.loads(bytes(self.body))["error"]
            headers = {name: value for name, value in self.headers.items() if not name.startswith("content-")}
            await JSONResponse({"error": error["message"]}, self.status_code, headers)(scope, receive, send)
            return
        await super().__call__(scope, receive, send)


@dataclass
class Faults:
    """Everything that is wrong with a request."""

    found: list[Fault] = field(default_factory=list)

    @property
    def is_full(self) -> bool:
        """Whether more would not be told."""
        return len(self.found) > _MAX_LISTED

    def note(self, param: str, message: str, code: str = "invalid_value") -> None:
        """Adds one; of thousands, the first few are enough."""
        if not self.is_full:
            self.found.append(Fault(param, message, code))

    def check(self) -> None:
        """
        Raises:
            RequestFault: If anything was noted: 400, naming the first.
        """
        if self.found:
            raise bad_request(self.found)


def bad_request(faults: Sequence[Fault]) -> RequestFault:
    """All faults as one error; `param` and `code` are the first one's."""
    lines = [fault.message for fault in faults[:_MAX_LISTED]]
    if len(faults) > _MAX_LISTED:
        lines.append("and more")
    return RequestFault(400, " ".join(f"{line}." for line in lines), code=faults[0].code, param=faults[0].param)


def error_body(message: str, kind: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """OpenAI's error object. Halves of characters, which names of a client's fields may hold, become question marks."""
    named = None if param is None else _whole(param)
    return {"error": {"message": _whole(message), "type": kind, "param": named, "code": code}}


def too_busy(retry_after_s: float, message: str) -> RequestFault:
    """429 with the seconds after which to try again."""
    seconds = str(max(1, math.ceil(retry_after_s)))
    return RequestFault(429, message, code="rate_limit_exceeded", headers={"Retry-After": seconds})


def unavailable(message: str) -> RequestFault:
    """503: not this request's fault, and another server may do."""
    return RequestFault(503, message, code="server_unavailable", headers={"Retry-After": "5"})


def engine_fault(error: BaseException) -> RequestFault:
    """What the runtime refused or could not do."""
    if isinstance(error, ContextOverflow):
        return RequestFault(400, str(error), code="context_length_exceeded", param="messages")
    if isinstance(error, ImageError):
        return RequestFault(400, str(error), code="invalid_image", param="messages")
    if isinstance(error, GrammarFault):
        return RequestFault(400, str(error), code="invalid_json_schema", param="response_format")
    if isinstance(error, ValueError):
        return RequestFault(400, str(error), code="invalid_value", param="messages")
    if type(error) is EdgeLlavaError:  # it is closed, or has failed for good
        return unavailable(str(error))
    if is_out_of_memory(error):
        return no_memory()
    if isinstance(error, EdgeLlavaError):
        return RequestFault(500, str(error), code="engine_error")
    return internal_fault()


def no_memory() -> RequestFault:
    """503: another time there may be enough."""
    return unavailable("There is not enough memory for this request now.")


def internal_fault() -> RequestFault:
    """500 that says nothing of the inside."""
    return RequestFault(500, "The server failed to answer; its log says more.", code="internal_error")


async def show_fault(request: Request, error: Exception) -> JSONResponse:
    """Answers a RequestFault."""
    assert isinstance(error, RequestFault)
    return error.response()


async def show_http_error(request: Request, error: Exception) -> JSONResponse:
    """Answers what the router refuses: a path or a method that is not served."""
    assert isinstance(error, HTTPException)
    message = f"Unknown request URL: {request.method} {request.url.path}."
    if error.status_code == 405:
        message = f"{request.method} is not served at {request.url.path}."
    fault = RequestFault(error.status_code, message, code=_CODES.get(error.status_code), headers=error.headers)
    return fault.response()


def _whole(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _type_of(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"
