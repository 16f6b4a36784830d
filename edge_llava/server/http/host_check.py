"""The host names that a local server accepts.

Any web page can make its own name resolve to 127.0.0.1 (DNS rebinding), and would then have the same origin as this
server; the Host header still contains that name.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from edge_llava.server.http.errors import RequestError

_SHOWN = re.compile(r"[a-z0-9_:][a-z0-9._:-]{0,252}")


class CheckHost:
    """Middleware that refuses requests whose Host header is neither a loopback address, nor localhost, nor allowed."""

    def __init__(self, app: ASGIApp, allowed: Sequence[str]) -> None:
        self._app, self._allowed = app, {name.lower().rstrip(".") for name in allowed}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http":
            hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
            if not hosts or not self._is_allowed(hosts[0]):
                await _refusal(hosts[0] if hosts else "").response()(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _is_allowed(self, header: str) -> bool:
        name = _name_of(header)
        return name == "localhost" or name.endswith(".localhost") or name in self._allowed or is_loopback(name)


def _refusal(header: str) -> RequestError:
    name = _name_of(header)
    if _SHOWN.fullmatch(name):
        named = f"The Host header {name!r} is not allowed. If it is a name of this server, start it with"
    else:  # the message repeats valid names only
        name, named = "NAME", "The Host header is missing or not a name. Allow the name of this server with"
    return RequestError(403, f"{named} --allow-host {name}.", code="host_not_allowed")


def is_loopback(name: str) -> bool:
    """Whether a name is localhost or a loopback address."""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _name_of(header: str) -> str:
    """The name in a Host header, without the port and brackets."""
    name = header.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0].rstrip(".")
