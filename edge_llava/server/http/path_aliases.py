"""Other spellings of the API's paths: without /v1, and with a trailing slash."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

_OPENAI = ("/chat/completions", "/completions", "/models", "/responses")
_FOLDERS = ("/v1/", "/api/")
_MODEL = "/models/"


class AllowAliases:
    """Middleware that replaces a request's path by the canonical one. Other layers, and the log, see only that.

    Clients add their own paths to an address from their settings: some expect /v1 in the address, some add it
    themselves, and some users end the address with a slash.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http":
            scope = {**scope, "path": canonical_path(scope["path"])}
        await self._app(scope, receive, send)


def canonical_path(path: str) -> str:
    """The path that is served: "/v1/models" for "/models/". Paths outside of the API stay as they are."""
    short = path.rstrip("/")
    if short in _OPENAI or short.startswith(_MODEL):
        return f"/v1{short}"
    return short if short.startswith(_FOLDERS) else path
