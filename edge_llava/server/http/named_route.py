"""A route that requests can be counted and logged by."""

from __future__ import annotations

from starlette.routing import Route
from starlette.types import Receive, Scope, Send


class NamedRoute(Route):
    """Says in the request's scope which route it is: "route", as Starlette itself does since 1.4."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        scope["route"] = self
        await super().handle(scope, receive, send)
