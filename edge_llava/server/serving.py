"""Runs the application with uvicorn until a signal ends it."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import uvicorn

from edge_llava.server.app import ServerApp
from edge_llava.server.http.connections import Connections
from edge_llava.server.http.loop_errors import LoopErrors

_GRACE_S = 5
_KEEP_ALIVE_S = 30
_BACKLOG = 128
_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)
)  # Ctrl-C, a service manager, a closed terminal, Ctrl-Break on Windows
_OWN_HANDLES = 64  # for files of the model, the engines and Python


class _Server(uvicorn.Server):
    """uvicorn's server; the first signal ends running answers, then the server, and a second one does not wait."""

    def __init__(self, config: uvicorn.Config, stop: Callable[[], None], give_up: Callable[[], None]) -> None:
        super().__init__(config)
        self._stop, self._give_up = stop, give_up

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Like uvicorn's, but a signal that was handled is not raised again."""
        loop = asyncio.get_running_loop()

        def obey(number: int, frame: FrameType | None) -> None:
            if self.should_exit:
                self._give_up()
            self.should_exit = True
            loop.call_soon_threadsafe(self._stop)

        obeyed = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # nohup's SIGHUP
        previous = {number: signal.signal(number, obey) for number in obeyed}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def serve(
    app: ServerApp, listeners: Sequence[socket.socket], on_ready: Callable[[], None], give_up: Callable[[], None]
) -> None:
    """Serves until SIGINT, SIGTERM or SIGHUP. For the main thread.

    Args:
        app: The application; its engine stays open.
        listeners: Bound sockets; closed at the end.
        on_ready: Called once requests are answered.
        give_up: Called on a second signal. It should end the process, because threads may be busy for a long time.
    """
    # uvicorn's messages about broken requests and about errors that were reported already are for debugging
    is_debugging = logging.getLogger("edge_llava.server").isEnabledFor(logging.DEBUG)
    logging.getLogger("uvicorn").setLevel(logging.INFO if is_debugging else logging.CRITICAL)
    logging.getLogger("uvicorn.access").disabled = True  # its lines contain whole addresses
    asyncio.run(_run(_Server(make_config(app), app.stop, give_up), listeners, on_ready))


def make_config(app: ServerApp) -> uvicorn.Config:
    """Configures uvicorn for an application: plain HTTP/1.1, with limits."""
    connections = Connections(app.limits, _spare_handles())
    return uvicorn.Config(
        app.asgi,
        http=connections.protocol(),
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_GRACE_S,
        h11_max_incomplete_event_size=app.limits.header_bytes,
        backlog=_BACKLOG,
    )


def _spare_handles() -> int | None:
    """The number of file handles for connections; None if there is no limit."""
    if sys.platform == "win32":
        return None
    import resource

    n_handles, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if n_handles == resource.RLIM_INFINITY else max(1, n_handles - _OWN_HANDLES)


async def _run(server: _Server, listeners: Sequence[socket.socket], on_ready: Callable[[], None]) -> None:
    asyncio.get_running_loop().set_exception_handler(LoopErrors())
    serving = asyncio.ensure_future(server.serve(sockets=[*listeners]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    if server.started:
        on_ready()
    await serving
