"""A response that is sent while it is generated: server-sent events, or lines of JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

import anyio
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from edge_llava.server.http.client_presence import while_present

DONE = b"data: [DONE]\n\n"
BEAT = b": still here\n\n"
_BEAT_S = 15.0
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def event(data: dict[str, Any]) -> bytes:
    """Encodes one object as an event."""
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


class EventStream(Response):
    """Sends what a generator yields until it ends or the client disconnects, and keep-alive messages in between."""

    def __init__(
        self,
        parts: AsyncGenerator[bytes, None],
        on_end: Callable[[], None],
        *,
        stalled_s: float,
        media_type: str = "text/event-stream",
        beat: bytes = BEAT,
        beat_s: float = _BEAT_S,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """
        Args:
            parts: Whole events.
            on_end: Called when the stream has ended, for whatever reason.
            stalled_s: Seconds after which a client that reads nothing is disconnected.
            media_type: Of the stream.
            beat: Sent after silence, for proxies that close silent connections; clients ignore it.
            beat_s: Seconds of silence.
            headers: Sent in addition to those of every stream.
        """
        self.status_code, self.background, self.media_type = 200, None, media_type
        self._parts, self._on_end, self._stalled_s = parts, on_end, stalled_s
        self._beat, self._beat_s = beat, beat_s
        self.init_headers({**_HEADERS, **(headers or {})})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        try:
            await while_present(receive, self._send_all(send))
        except (ClientDisconnect, TimeoutError):
            pass  # the client is gone
        finally:
            self._on_end()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        coming = asyncio.ensure_future(self._next())
        try:
            while True:
                await asyncio.wait({coming}, timeout=self._beat_s)
                part = coming.result() if coming.done() else self._beat
                if part is None:
                    break
                if coming.done():
                    coming = asyncio.ensure_future(self._next())
                message = {"type": "http.response.body", "body": part, "more_body": True}
                with anyio.fail_after(self._stalled_s):  # asyncio's wait_for may lose a cancellation before Python 3.12
                    await send(message)
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
            await self._parts.aclose()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _next(self) -> bytes | None:
        return await anext(self._parts, None)
