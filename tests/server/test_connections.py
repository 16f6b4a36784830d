"""Connections that send nothing, send slowly or do not read; and too many of them. None of this needs a key."""

from __future__ import annotations

import errno
import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from edge_llava.server.http.limits import Limits
from edge_llava.server.http.loop_errors import LoopErrors
from edge_llava.server.options import ServerOptions

PATIENCE_S = 60.0
CHAT = "/v1/chat/completions"
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
Connect = Callable[[Any], socket.socket]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """connect(server) -> a socket."""
    with ExitStack() as opened:

        def run(server: Any) -> socket.socket:
            address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
            return opened.enter_context(socket.create_connection(address, timeout=PATIENCE_S))

        yield run


def limited(run_server: Callable[..., Any], **limits: Any) -> Any:
    return run_server(ServerOptions(api_key="sk-0123456789", limits=Limits(**limits)))


def post(path: str, n_bytes: int) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json"
    return f"{head}\r\nAuthorization: Bearer sk-0123456789\r\nContent-Length: {n_bytes}\r\n\r\n".encode()


def is_closed(connection: socket.socket) -> bool:
    """Reads to the end, which is reached only if the other side closes."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionError:
        pass
    return True


def is_open(connection: socket.socket) -> bool:
    """Whether a request on the connection is answered."""
    try:
        connection.sendall(HEALTH)
        return read_object(connection).startswith(b"HTTP/1.1 200")
    except ConnectionError:
        return False


def read_object(connection: socket.socket) -> bytes:
    """Reads an answer whose body is a JSON object, which may arrive in pieces."""
    answer = part = connection.recv(4096)
    while part and not answer.endswith(b"}"):
        part = connection.recv(4096)
        answer += part
    return answer


def dribble(connection: socket.socket, data: bytes) -> int:
    """Sends a byte now and then until the other side closes; returns the number of bytes sent."""
    connection.setblocking(False)
    for n_sent in range(len(data)):
        try:
            connection.send(data[n_sent : n_sent + 1])
            while connection.recv(65536):
                pass
            return n_sent
        except BlockingIOError:
            pass
        except ConnectionError:
            return n_sent
        time.sleep(0.05)
    return len(data)


@pytest.fixture(scope="module")
def hasty(run_server: Callable[..., Any]) -> Any:
    """A server that waits for headers for half a second."""
    return limited(run_server, header_s=0.5)


def test_a_silent_connection_is_closed(hasty: Any, connect: Connect) -> None:
    assert is_closed(connect(hasty))


def test_headers_must_arrive_in_time_however_they_come(hasty: Any, connect: Connect) -> None:
    slow = b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"X-Slow: 1\r\n" * 100
    assert dribble(connect(hasty), slow) < 400


def test_so_must_those_of_the_next_request(hasty: Any, connect: Connect) -> None:
    connection = connect(hasty)
    assert is_open(connection)
    slow = b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"X-Slow: 1\r\n" * 100
    assert dribble(connection, slow) < 400


def test_a_body_that_nothing_waits_for_keeps_no_connection_open(hasty: Any, connect: Connect) -> None:
    connection = connect(hasty)
    connection.sendall(post("/no/such/path", 10_000))
    assert connection.recv(4096).startswith(b"HTTP/1.1 404")
    assert dribble(connection, b"x" * 1000) < 400


def test_slow_bodies_and_long_answers_are_not_cut_short(
    run_server: Callable[..., Any], engine: Any, connect: Connect
) -> None:
    server = limited(run_server, header_s=0.5)
    body = json.dumps({"messages": [{"role": "user", "content": "What?"}], "max_tokens": 2}).encode()
    connection = connect(server)
    connection.sendall(post(CHAT, len(body)))
    time.sleep(1.2)
    connection.sendall(body)
    assert read_object(connection).startswith(b"HTTP/1.1 200")
    time.sleep(1.2)  # between requests it may be idle for longer
    assert is_open(connection)


def test_more_connections_close_those_that_were_idle_for_longest(
    run_server: Callable[..., Any], connect: Connect
) -> None:
    server = limited(run_server, n_connections=8)
    busy, kept = connect(server), connect(server)
    busy.sendall(post(CHAT, 1000) + b"{")
    first = [connect(server) for _ in range(6)]
    assert all(is_open(connection) for connection in first)  # the server has accepted them
    assert is_open(kept)  # used later than they were
    later = [connect(server) for _ in range(6)]
    assert all(is_closed(connection) for connection in first)
    assert all(is_open(connection) for connection in (kept, *later))
    with server.client() as client:
        assert client.get("/health").status_code == 200
    busy.sendall(b" " * 998 + b"}")
    assert busy.recv(4096).startswith(b"HTTP/1.1 400")  # without messages; it was waited for


def test_where_all_are_busy_a_new_one_is_closed(run_server: Callable[..., Any], connect: Connect) -> None:
    server = limited(run_server, n_connections=2)
    busy = [connect(server) for _ in range(2)]
    for connection in busy:
        connection.sendall(post(CHAT, 2) + b"{")
    server.wait_until(lambda: server.app.n_open_requests == 2)
    assert is_closed(connect(server))
    for connection in busy:
        connection.sendall(b"}")
        assert connection.recv(4096).startswith(b"HTTP/1.1 400")


def test_a_client_that_takes_no_answers_is_given_up(run_server: Callable[..., Any], connect: Connect) -> None:
    server = limited(run_server, stalled_s=0.5)
    connection = connect(server)
    connection.setblocking(False)
    asks = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100
    deadline = time.monotonic() + PATIENCE_S

    def flood() -> None:
        while time.monotonic() < deadline:
            try:
                connection.send(asks)
            except BlockingIOError:
                time.sleep(0.05)

    with pytest.raises(ConnectionError):
        flood()
    server.wait_until(lambda: server.app.n_open_requests == 0)


@pytest.mark.parametrize("headers", [{f"x-{n}": "1" for n in range(130)}, {"x": 70_000 * "x"}])
def test_too_many_headers(run_server: Callable[..., Any], server: Any, check_error: Any, headers: Any) -> None:
    with server.client() as client:
        answer = client.get("/health", headers=headers)
        if answer.headers["content-type"] == "application/json":  # otherwise h11 refused it, in plain text
            check_error(answer, 431, "headers_too_large")
        assert answer.status_code in (400, 431)
        assert answer.headers["connection"] == "close"
        assert client.get("/health", headers=dict(list(headers.items())[:100]) if len(headers) > 1 else {}).is_success


def test_errors_of_the_event_loop_are_one_line_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "edge_llava.server")
    handler, loop = LoopErrors(), None
    for _ in range(1000):
        handler(loop, {"message": "out of system resource", "exception": OSError(errno.EMFILE, "secret")})  # type: ignore[arg-type]
        handler(loop, {"message": "Exception in callback f(b'secret')", "exception": ValueError("secret")})  # type: ignore[arg-type]
        handler(loop, {"message": "Unclosed transport"})  # type: ignore[arg-type]
    assert [record.getMessage() for record in caplog.records] == [
        "no file handle is left for new connections; raise the limit (ulimit -n)",
        "Exception in callback f: ValueError",
        "Unclosed transport",
    ]
    assert not any(record.exc_info for record in caplog.records)
