"""Web pages of elsewhere, where the server lets some in."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from edge_llava.server.ignored_fields import IGNORED_HEADER
from edge_llava.server.openai_errors import RequestFault

EXPOSED_HEADERS = ("x-request-id", "retry-after", IGNORED_HEADER)


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
