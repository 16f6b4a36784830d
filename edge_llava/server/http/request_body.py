"""The body of a request: JSON, limited while it is read, and given up where the server ends."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
from starlette.requests import Request

from edge_llava.server.http.limits import Limits
from edge_llava.server.http.memory_budget import Share
from edge_llava.server.http.value_count import ValueCount
from edge_llava.server.openai.errors import RequestFault, unavailable

_VALUE_BYTES = 128  # that one takes when it is parsed, about
_GROWTH = 1.5  # what a buffer takes that grows beside others, for each byte in it; measured


class OpenBodies:
    """Requests that are being read: bodies on their way, images being decoded. For the event loop's thread."""

    def __init__(self) -> None:
        self._scopes: set[anyio.CancelScope] = set()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Around the reading of one.

        Raises:
            RequestFault: 503 if the server stops before that has ended.
        """
        with anyio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                yield
            finally:
                self._scopes.discard(scope)
        if scope.cancelled_caught:
            raise unavailable("The server is stopping; the request had not been read.")

    def stop(self) -> None:
        """Ends the waiting for them."""
        for scope in tuple(self._scopes):
            scope.cancel()


async def read_body(request: Request, limits: Limits, share: Share, *, any_type: bool = False) -> bytearray:
    """Reads a body of JSON. Clear it once it was parsed.

    Args:
        request: Whose body.
        limits: How large it may be, and how late.
        share: Counts it.
        any_type: Whether programs, but not web pages, may leave out that it is JSON, or say something else.

    Raises:
        RequestFault: 415 if it says that it is something else, 413 if it is too large or holds too many
            values, 429 if all bodies together take too much memory, 408 if it does not arrive,
            503 if the server stops before it has.
        ClientDisconnect: If the client leaves.
    """
    _check_type(request, any_type=any_type)
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > limits.body_bytes:
        raise _too_large(limits)
    bodies: OpenBodies = request.app.state.bodies
    try:
        with bodies.reading(), anyio.fail_after(limits.body_s):
            return await _collect(request, limits, share)
    except TimeoutError as error:
        raise RequestFault(408, f"The body did not arrive within {limits.body_s:g} s.", code="timeout") from error


def parsing_bytes(body: bytearray) -> int:
    """What `parse_body` takes at most: its text, and the texts in it; of other characters than ASCII, 4 bytes each."""
    return 2 * len(body) * (1 if body.isascii() else 4)


def parse_body(body: bytes | bytearray) -> dict[str, Any]:
    """The JSON object that a body holds.

    Raises:
        RequestFault: 400 if it holds none.
    """
    try:
        data = json.loads(body.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise _no_json(f"it is not UTF-8 (byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise _no_json(f"{error.msg} at line {error.lineno}, column {error.colno}") from error
    except ValueError as error:  # NaN, or an integer of thousands of digits
        raise _no_json("a number that JSON does not have, or one that is too long") from error
    except RecursionError as error:
        raise _no_json("it is nested too deeply") from error
    if not isinstance(data, dict):
        raise _no_json("it is no object")
    return data


async def _collect(request: Request, limits: Limits, share: Share) -> bytearray:
    body, values = bytearray(), ValueCount()
    async for part in request.stream():
        if len(body) + len(part) > limits.body_bytes:
            raise _too_large(limits)
        share.take(math.ceil(len(part) * _GROWTH) + _VALUE_BYTES * values.add(part))
        if values.n_values > limits.n_values:
            raise _too_many(limits)
        body += part
    return body


def _check_type(request: Request, *, any_type: bool) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    # a web page of anybody may send every other type to a local server, without asking
    if kind != "application/json" and not (any_type and not _is_from_page(request)):
        raise RequestFault(
            415,
            f"The body must be JSON with the header 'Content-Type: application/json', not {kind[:80] or 'none'!r}.",
            code="unsupported_media_type",
        )
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise RequestFault(415, "Compressed bodies are not taken. Send it as it is.", code="unsupported_media_type")


def _is_from_page(request: Request) -> bool:
    """Whether a browser sent it: since 2020 all of them name the origin on a POST, an opaque one as "null"."""
    return any(name in request.headers for name in ("origin", "referer", "sec-fetch-site", "sec-fetch-mode"))


def _too_large(limits: Limits) -> RequestFault:
    return RequestFault(413, f"The body is larger than {limits.body_bytes} bytes.", code="request_too_large")


def _too_many(limits: Limits) -> RequestFault:
    return RequestFault(
        413,
        f"The body holds more than {limits.n_values} values of JSON. Send fewer: join neighbouring parts of text, "
        "and leave out what a chat does not need.",
        code="request_too_large",
    )


def _no_json(why: str) -> RequestFault:
    return RequestFault(400, f"The body cannot be read as a JSON object: {why}.", code="invalid_json")


def _refuse_constant(name: str) -> float:
    raise ValueError(name)
