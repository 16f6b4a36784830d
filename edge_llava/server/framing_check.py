"""Where a request's body ends: said twice, a proxy and this server may disagree (request smuggling)."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from edge_llava.server.openai_errors import RequestFault

_BOTH = {b"content-length", b"transfer-encoding"}


class CheckFraming:
    """Middleware: refuses requests with both Content-Length and Transfer-Encoding, and closes their connection."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http" and {name for name, _ in scope["headers"]} >= _BOTH:
            fault = RequestFault(
                400,
                "The request has both a Content-Length and a Transfer-Encoding. Send one of them.",
                code="ambiguous_length",
                headers={"Connection": "close"},  # what follows on it may be no request
            )
            await fault.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)
