"""A route that names itself, so that requests can be counted and logged by it."""

from __future__ import annotations

from starlette.routing import Route
from starlette.types import Receive, Scope, Send


class NamedRoute(Route):
    """Puts itself into the request's scope as "route", as Starlette itself does since 1.4."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        scope["route"] = self
        await super().handle(scope, receive, send)
