"""Other ways to write the paths of the API: without /v1, and with a slash at the end."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

_OPENAI = ("/chat/completions", "/completions", "/models", "/responses")
_FOLDERS = ("/v1/", "/api/")
_MODEL = "/models/"


class AllowAliases:
    """Middleware: gives a request the path that is served. Other layers, and the log, see only that.

    Clients are configured with an address to which they add their own paths: some count /v1 as part of the address,
    some as part of the path, and some people write a slash at its end.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http":
            scope = {**scope, "path": canonical_path(scope["path"])}
        await self._app(scope, receive, send)


def canonical_path(path: str) -> str:
    """The path that is served: "/models/" is "/v1/models". Paths that are not of the API stay as they are."""
    short = path.rstrip("/")
    if short in _OPENAI or short.startswith(_MODEL):
        return f"/v1{short}"
    return short if short.startswith(_FOLDERS) else path
