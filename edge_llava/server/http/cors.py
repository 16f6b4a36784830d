"""CORS: the web pages of other origins that may use the server."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from edge_llava.server.http.answer_headers import DROPPED, IGNORED, TRUNCATED
from edge_llava.server.http.errors import RequestError

_EXPOSED = ("x-request-id", "retry-after", IGNORED, TRUNCATED, DROPPED)
_HOST = re.compile(r"[a-z0-9._:-]+")
_DEFAULT_PORTS = {"http": 80, "https": 443}


def read_origin(text: str) -> str:
    """An origin as browsers write it: in lower case, without a default port or a trailing slash. "*" matches all.

    Raises:
        ValueError: If no browser sends such an origin, so that it would never match.
    """
    if text in ("*", "null"):
        return text
    try:
        split = urlsplit(text.lower())
        port = split.port
    except ValueError as error:
        raise ValueError(f"{text!r} has no valid host and port: ports are numbers, without wildcards") from error
    if not (split.scheme and split.hostname):
        raise ValueError(f"{text!r} is not an origin: include the scheme, as in 'http://localhost:3000'")
    if split.path.strip("/") or split.query or split.fragment or "@" in split.netloc:
        raise ValueError(f"{text!r} is more than an origin: give only the scheme, host and port")
    if not _HOST.fullmatch(split.hostname):
        raise ValueError(
            f"the host of {text!r} can never match: wildcards are not supported, and browsers send only ASCII"
        )
    host = f"[{split.hostname}]" if ":" in split.hostname else split.hostname
    shown_port = "" if port in (None, _DEFAULT_PORTS.get(split.scheme)) else f":{port}"
    return f"{split.scheme}://{host}{shown_port}"


class AllowOrigins(CORSMiddleware):
    """Starlette's CORS middleware, with errors in OpenAI's form."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=_EXPOSED,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answers the preflight request of a browser."""
        answer = super().preflight_response(request_headers)
        if answer.status_code == 200:
            return answer
        headers = {name: value for name, value in answer.headers.items() if not name.startswith("content-")}
        if self.is_allowed_origin(request_headers["origin"]):
            message = "Pages of this origin may use GET and POST only."
            code = "preflight_refused"
        else:
            message = "Pages of this origin may not use the server. Start it with --cors-origin URL to allow them."
            code = "origin_not_allowed"
        return RequestError(403, message, code=code, headers=headers).response()
