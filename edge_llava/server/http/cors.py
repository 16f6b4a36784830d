"""Web pages of elsewhere, where the server lets some in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from edge_llava.server.images.image_parts import TRUNCATED_HEADER
from edge_llava.server.openai.errors import RequestFault
from edge_llava.server.openai.ignored_fields import IGNORED_HEADER

EXPOSED_HEADERS = ("x-request-id", "retry-after", IGNORED_HEADER, TRUNCATED_HEADER)
_HOST = re.compile(r"[a-z0-9._:-]+")
_DEFAULT_PORTS = {"http": 80, "https": 443}


def read_origin(text: str) -> str:
    """An origin as browsers write it: in lower case, without the usual port or a slash at the end. "*" is every one.

    Raises:
        ValueError: If no browser sends such an origin, so that it would never match.
    """
    if text in ("*", "null"):
        return text
    try:
        split = urlsplit(text.lower())
        port = split.port
    except ValueError as error:
        raise ValueError(f"{text!r} has no valid host and port: a port is a number, and each is named") from error
    if not (split.scheme and split.hostname):
        raise ValueError(f"{text!r} is not an origin: write its scheme, too, as in 'http://localhost:3000'")
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
    """Middleware: Starlette's, but what it refuses is said in OpenAI's form."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=EXPOSED_HEADERS,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """What a browser is told that asks for a page."""
        answer = super().preflight_response(request_headers)
        if answer.status_code == 200:
            return answer
        headers = {name: value for name, value in answer.headers.items() if not name.startswith("content-")}
        if self.is_allowed_origin(request_headers["origin"]):
            message = "The browser asks for more than pages of this origin may do: GET and POST."
            code = "preflight_refused"
        else:
            message = "Pages of this origin may not use the server. Start it with --cors-origin URL to allow them."
            code = "origin_not_allowed"
        return RequestFault(403, message, code=code, headers=headers).response()
