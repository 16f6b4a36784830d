"""The body of a request: JSON, limited while it is read, and abandoned when the server stops."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
from starlette.requests import Request

from edge_llava.server.http.errors import RequestError, unavailable
from edge_llava.server.http.json_value_counter import JsonValueCounter
from edge_llava.server.http.limits import Limits
from edge_llava.server.http.memory_budget import MemoryLease

_VALUE_BYTES = 256  # what one takes when it is parsed and checked, about
_GROWTH = 1.5  # memory per byte of a buffer that grows among others; measured


class PendingBodies:
    """Requests that are being read: bodies that arrive, images being decoded. For the event loop's thread."""

    def __init__(self) -> None:
        self._scopes: set[anyio.CancelScope] = set()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Wraps the reading of one request.

        Raises:
            RequestError: 503 if the server stops before the request is read.
        """
        with anyio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                yield
            finally:
                self._scopes.discard(scope)
        if scope.cancelled_caught:
            raise unavailable("The server is shutting down; the request was not read completely.")

    def stop(self) -> None:
        """Stops waiting for all of them."""
        for scope in tuple(self._scopes):
            scope.cancel()


async def read_body(request: Request, limits: Limits, lease: MemoryLease, *, any_type: bool = False) -> bytearray:
    """Reads a JSON body. Clear it once it was parsed.

    Args:
        request: The request.
        limits: Limits of its size and its arrival time.
        lease: Counts its memory.
        any_type: Whether programs, but not web pages, may omit the JSON content type or send another one.

    Raises:
        RequestError: 415 if it has another content type, 413 if it is too large or contains too many values,
            429 if all bodies together take too much memory, 408 if it does not arrive in time,
            503 if the server stops before it has arrived.
        ClientDisconnect: If the client disconnects.
    """
    _check_type(request, any_type=any_type)
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > limits.body_bytes:
        raise _too_large(limits)
    bodies: PendingBodies = request.app.state.bodies
    try:
        with bodies.reading(), anyio.fail_after(limits.body_s):
            return await _collect(request, limits, lease)
    except TimeoutError as error:
        raise RequestError(408, f"The body did not arrive within {limits.body_s:g} s.", code="timeout") from error


def parsing_bytes(body: bytearray) -> int:
    """The most memory `parse_body` takes: its text and the texts in it, 4 bytes per character if not all are ASCII."""
    return 2 * len(body) * (1 if body.isascii() else 4)


def parse_body(body: bytes | bytearray) -> dict[str, Any]:
    """Parses a body as a JSON object.

    Raises:
        RequestError: 400 if the body is not a JSON object.
    """
    try:
        data = json.loads(body.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise _not_json(f"it is not UTF-8 (byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise _not_json(f"{error.msg} at line {error.lineno}, column {error.colno}") from error
    except ValueError as error:  # NaN, or an integer of thousands of digits
        raise _not_json("it contains a number that JSON does not allow, or one that is too long") from error
    except RecursionError as error:
        raise _not_json("it is nested too deeply") from error
    if not isinstance(data, dict):
        raise _not_json("it is not an object")
    return data


async def _collect(request: Request, limits: Limits, lease: MemoryLease) -> bytearray:
    body, values = bytearray(), JsonValueCounter()
    async for part in request.stream():
        if len(body) + len(part) > limits.body_bytes:
            raise _too_large(limits)
        lease.take(math.ceil(len(part) * _GROWTH) + _VALUE_BYTES * values.add(part))
        if values.n_values > limits.n_values:
            raise _too_many(limits)
        body += part
    return body


def _check_type(request: Request, *, any_type: bool) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    # any web page may send other types to a local server without asking for permission
    if kind != "application/json" and not (any_type and not _is_from_page(request)):
        raise RequestError(
            415,
            f"The body must be JSON with the header 'Content-Type: application/json', not {kind[:80] or 'none'!r}.",
            code="unsupported_media_type",
        )
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise RequestError(
            415, "Compressed bodies are not supported. Send it uncompressed.", code="unsupported_media_type"
        )


def _is_from_page(request: Request) -> bool:
    """Whether a browser sent it: since 2020, all browsers send the origin with a POST, an opaque one as "null"."""
    return any(name in request.headers for name in ("origin", "referer", "sec-fetch-site", "sec-fetch-mode"))


def _too_large(limits: Limits) -> RequestError:
    return RequestError(413, f"The body is larger than {limits.body_bytes} bytes.", code="request_too_large")


def _too_many(limits: Limits) -> RequestError:
    return RequestError(
        413,
        f"The body contains more than {limits.n_values} values of JSON. Join neighbouring parts of text, "
        "and leave out what a chat does not need.",
        code="request_too_large",
    )


def _not_json(why: str) -> RequestError:
    return RequestError(400, f"The body cannot be read as a JSON object: {why}.", code="invalid_json")


def _refuse_constant(name: str) -> float:
    raise ValueError(name)
