"""Refuses requests from web pages of other origins, instead of only hiding the answers from them.

A browser asks for permission before it sends JSON to another origin, and is denied it (no CORS). This check does not
rely on that.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from edge_llava.server.http.errors import RequestError

_READING = ("GET", "HEAD", "OPTIONS")


class CheckOrigin:
    """Middleware that refuses requests from pages of another origin unless that origin is allowed.

    A page has the same origin if its browser says so (Sec-Fetch-Site, which no page can set), if its Origin matches the
    Host header, or if its Origin is a host name under which a proxy serves this server.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str], hosts: Sequence[str]) -> None:
        """
        Args:
            app: The application.
            origins: Allowed origins: "https://app.example"; "*" allows all.
            hosts: Host names of this server, without ports.
        """
        self._app = app
        self._origins, self._hosts = set(origins), {name.lower().rstrip(".") for name in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http" and scope["method"] not in _READING and self._is_foreign(Headers(scope=scope)):
            message = "Pages of this origin may not use the server. Start it with --cors-origin URL to allow them."
            fault = RequestError(403, message, code="origin_not_allowed")
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
