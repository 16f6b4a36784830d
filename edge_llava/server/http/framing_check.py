"""Checks the headers of a request: there are not too many, and only one of them defines where its body ends.

If two define it, a proxy and this server may disagree (request smuggling).
"""

from __future__ import annotations

from collections.abc import Collection

from starlette.types import ASGIApp, Receive, Scope, Send

from edge_llava.server.http.errors import RequestError
from edge_llava.server.http.limits import Limits

_BOTH = {b"content-length", b"transfer-encoding"}
_CLOSE = {"Connection": "close"}
Headers = Collection[tuple[bytes, bytes]]


class CheckFraming:
    """Middleware that refuses requests with both Content-Length and Transfer-Encoding, or with too many headers.

    It closes their connection, because what follows on it may not be a request.
    """

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app, self._limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        fault = self._find_fault(scope["headers"]) if scope["type"] == "http" else None
        await (self._app if fault is None else fault.response())(scope, receive, send)

    def _find_fault(self, headers: Headers) -> RequestError | None:
        n_bytes = sum(len(name) + len(value) for name, value in headers)
        if n_bytes > self._limits.header_bytes or len(headers) > self._limits.n_headers:
            most = f"{self._limits.n_headers} headers, or more than {self._limits.header_bytes} bytes of them"
            return RequestError(431, f"The request has more than {most}.", code="headers_too_large", headers=_CLOSE)
        if {name for name, _ in headers} >= _BOTH:
            message = "The request has both a Content-Length and a Transfer-Encoding. Send one of them."
            return RequestError(400, message, code="ambiguous_length", headers=_CLOSE)
        return None
