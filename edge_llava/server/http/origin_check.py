"""Web pages of elsewhere: what they send is refused, and not only kept from them afterwards.

A browser asks before it sends JSON to another origin, and asks in vain (no CORS). This does not rely on that.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from edge_llava.server.openai.errors import RequestFault

_READING = ("GET", "HEAD", "OPTIONS")


class CheckOrigin:
    """Middleware: refuses what pages of another origin send, unless that origin is allowed.

    A page is of the same origin if its browser says so (Sec-Fetch-Site, which no page can set), if its Origin is what
    the Host header names, or if it names a host that a proxy gives this server.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str], hosts: Sequence[str]) -> None:
        """
        Args:
            app: What answers the others.
            origins: Allowed origins: "https://app.example"; "*" allows all.
            hosts: Names of this server, without ports.
        """
        self._app = app
        self._origins, self._hosts = set(origins), {name.lower().rstrip(".") for name in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http" and scope["method"] not in _READING and self._is_foreign(Headers(scope=scope)):
            message = "Pages of this origin may not use the server. Start it with --cors-origin URL to allow them."
            fault = RequestFault(403, message, code="origin_not_allowed")
            await fault.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_foreign(self, headers: Headers) -> bool:
        origins = headers.getlist("origin")
        if not origins or headers.get("sec-fetch-site") == "same-origin":
            return False
        return not all(self._is_allowed(origin, headers.get("host", "")) for origin in origins)

    def _is_allowed(self, origin: str, host: str) -> bool:
        if "*" in self._origins or origin in self._origins:
            return True
        try:
            url = urlsplit(origin)
            name = url.hostname
        except ValueError:
            return False
        is_page = url.scheme in ("http", "https") and name is not None
        return is_page and (url.netloc.lower() == host.strip().lower() or name in self._hosts)
