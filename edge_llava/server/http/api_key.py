"""The key that clients must send if the server has one."""

from __future__ import annotations

import hashlib
import hmac
import secrets

from starlette.types import ASGIApp, Receive, Scope, Send

from edge_llava.server.http.errors import RequestError

_OPEN_PATHS = ("/health", "/", "/openapi.json")
_OPEN_FOLDERS = ("/page/",)


class ApiKey:
    """A secret that is compared in constant time, whatever the length of a guess."""

    def __init__(self, key: str) -> None:
        """
        Args:
            key: 8 or more visible ASCII characters.

        Raises:
            ValueError: If it is shorter, or contains other characters.
        """
        if len(key) < 8 or not all("!" <= character <= "~" for character in key):
            raise ValueError("an API key must be 8 or more visible ASCII characters, without spaces")
        self._digest = hashlib.sha256(key.encode()).digest()

    @classmethod
    def generate(cls) -> str:
        """Returns a new key of 256 random bits."""
        return secrets.token_urlsafe(32)

    def is_in(self, authorization: bytes) -> bool:
        """Whether the Authorization header contains the key: "Bearer KEY", with any spaces or tabs between."""
        scheme, shown = (*authorization.split(maxsplit=1), b"", b"")[:2]
        is_same = hmac.compare_digest(hashlib.sha256(shown.strip()).digest(), self._digest)
        return is_same and scheme.lower() == b"bearer"


class RequireKey:
    """Middleware that refuses requests without the key. Health, the page and the API's description need none."""

    def __init__(self, app: ASGIApp, key: ApiKey) -> None:
        self._app, self._key = app, key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http" and not _is_open(scope["path"]):
            shown = [value for name, value in scope["headers"] if name == b"authorization"]
            if not shown or not self._key.is_in(shown[0]):
                await _refusal(bool(shown)).response()(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _is_open(path: str) -> bool:
    return path in _OPEN_PATHS or path.startswith(_OPEN_FOLDERS)


def _refusal(has_key: bool) -> RequestError:
    message = "Incorrect API key provided." if has_key else "Missing API key."
    return RequestError(
        401,
        f"{message} Send the header 'Authorization: Bearer KEY'.",
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )
