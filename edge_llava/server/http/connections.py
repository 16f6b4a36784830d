"""Connections of clients: how many may be open, and how long one may send or read nothing.

uvicorn limits neither. An attack of either kind costs a client nothing, and needs no key.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from edge_llava.server.http.limits import Limits


class BoundedProtocol(H11Protocol):
    """uvicorn's protocol, with deadlines for the headers of a request and for a client that does not read."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        connections: Connections,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._open = connections
        self._header_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Whether no request on it is waiting for an answer."""
        return self.cycle is None or self.cycle.response_complete

    def drop(self) -> None:
        """Closes the connection at once, and discards what was not yet sent."""
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        if self._open.admit(self):
            self._expect_request()
        else:
            self.drop()

    def data_received(self, data: bytes) -> None:
        """Reads data. A request's deadline starts with its first byte, and ends with the last byte of its headers."""
        if self.is_idle:
            self._expect_request()
        super().data_received(data)
        if not self.is_idle and self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def on_response_complete(self) -> None:
        """An answer was sent completely."""
        self._open.note_idle(self)
        super().on_response_complete()

    def timeout_keep_alive_handler(self) -> None:
        """The connection was idle for too long. It is closed even if the client has not read the last answer."""
        if self.transport.get_write_buffer_size():
            self.drop()
        else:
            super().timeout_keep_alive_handler()

    def pause_writing(self) -> None:
        """The client reads more slowly than data is sent."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(self._open.limits.stalled_s, self.drop)

    def resume_writing(self) -> None:
        """The client has read most of the data."""
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed: cancels its timers."""
        super().connection_lost(exc)
        self._open.remove(self)
        for timer in (self._header_timer, self._write_timer):
            if timer is not None:
                timer.cancel()

    def _expect_request(self) -> None:
        if self._header_timer is None:
            self._header_timer = self.loop.call_later(self._open.limits.header_s, self.drop)


class Connections:
    """The open connections of a server. For the event loop's thread.

    Attributes:
        limits: The number of connections and their deadlines.
    """

    def __init__(self, limits: Limits, n_most: int | None = None) -> None:
        """
        Args:
            limits: `n_connections`, `header_s` and `stalled_s`.
            n_most: A lower number than `n_connections`, if the process has fewer file handles.
        """
        self.limits = limits
        self._n_most = min(limits.n_connections, n_most or limits.n_connections)
        self._open: dict[BoundedProtocol, None] = {}  # in the order in which they became idle

    def __len__(self) -> int:
        return len(self._open)

    def protocol(self) -> type[asyncio.Protocol]:
        """The factory of a connection's protocol, for `uvicorn.Config(http=...)`."""
        return cast("type[asyncio.Protocol]", partial(BoundedProtocol, connections=self))

    def admit(self, connection: BoundedProtocol) -> bool:
        """Accepts a new connection. If there are too many, this closes the one that has been idle longest.

        Returns:
            Whether there is room; there is none if no connection is idle.
        """
        if len(self._open) >= self._n_most:
            idle = next((other for other in self._open if other.is_idle), None)
            if idle is None:
                return False
            self.remove(idle)
            idle.drop()
        self._open[connection] = None
        return True

    def note_idle(self, connection: BoundedProtocol) -> None:
        """A connection has become idle."""
        if connection in self._open:
            self._open[connection] = self._open.pop(connection)

    def remove(self, connection: BoundedProtocol) -> None:
        """A connection was closed."""
        self._open.pop(connection, None)
