"""Requests that are not answered: internal errors, clients that disconnect, bodies that are refused."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response

from edge_llava.errors import BackendError
from edge_llava.server.http.limits import Limits
from edge_llava.server.http.named_route import NamedRoute
from edge_llava.server.openai.engine_errors import engine_error
from edge_llava.server.options import ServerOptions

CHAT = "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}
Check = Callable[..., dict[str, Any]]


@pytest.mark.parametrize(
    "values",
    ['"metadata":{"a":[' + "[]," * 400_000 + "0]}", '"metadata":{"a":[' + '{"":{}},' * 300_000 + "0]}",
     ",".join(f'"k{i}":1' for i in range(300_000))],
    ids=["lists", "objects", "fields"],
)  # fmt: skip
def test_many_small_values_are_refused_while_they_are_read(
    client: httpx.Client, server: Any, check_error: Check, values: str
) -> None:
    body = ('{"messages":[{"role":"user","content":"x"}],' + values + "}").encode()
    error = check_error(client.post(CHAT, content=body, headers=JSON), 413, "request_too_large")
    assert "more than 100000 values" in error["message"]
    assert "edge_llava_held_bytes 0\n" in client.get("/metrics").text


def test_values_count_as_what_they_take(run_server: Callable[..., Any], check_error: Check) -> None:
    server = run_server(ServerOptions(limits=Limits(held_bytes=400_000)))
    with server.client() as client:
        assert server.ask(client, user=30_000 * ", ").status_code == 200
        check_error(server.ask(client, metadata={"a": 30_000 * [0]}), 413, "request_too_large")


async def _break(request: Request) -> Response:
    raise LookupError("secret")


def test_an_error_of_the_servers_own_is_counted_named_and_shown_to_pages(
    run_server: Callable[..., Any], check_error: Check, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "edge_llava.server")
    server = run_server(ServerOptions(cors_origins=("https://app.example",)))
    server.app.asgi.router.routes.append(NamedRoute("/broken", _break))
    with server.client(headers={"Origin": "https://app.example"}) as client:
        answer = client.get("/broken")
        check_error(answer, 500, "internal_error")
        assert answer.headers["x-request-id"].startswith("req_")
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert 'requests_total{path="/broken",status="500"} 1\n' in client.get("/metrics").text
    lines = [record.getMessage() for record in caplog.records if record.name == "edge_llava.server"]
    assert "internal error: LookupError" in lines
    assert any(line.startswith("GET /broken 500 ") for line in lines)
    assert not any("secret" in line for line in lines)


async def _take_too_much(request: Request) -> Response:
    return Response(bytes(1 << 60))


def test_too_little_memory_is_503(
    run_server: Callable[..., Any], check_error: Check, caplog: pytest.LogCaptureFixture
) -> None:
    server = run_server()
    server.app.asgi.router.routes.append(NamedRoute("/large", _take_too_much))
    with server.client() as client:
        check_error(client.get("/large"), 503, "server_unavailable")
    assert "not enough memory: MemoryError" in [record.getMessage() for record in caplog.records]
    for error in (MemoryError(), RuntimeError("can't start new thread"), BackendError("Cannot allocate memory")):
        assert engine_error(error).status == 503
    assert engine_error(BackendError("x")).status == 500


def test_a_client_that_leaves_is_counted_with_status_0(
    run_server: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "edge_llava.server")
    server = run_server()
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
        with server.client() as client:
            while "edge_llava_requests_open 2\n" not in client.get("/metrics").text:
                pass
    with server.client() as client:
        while "edge_llava_requests_open 1\n" not in client.get("/metrics").text:
            pass
        counts = [line for line in client.get("/metrics").text.splitlines() if f'requests_total{{path="{CHAT}"' in line]
    assert counts == [f'edge_llava_requests_total{{path="{CHAT}",status="0"}} 1']
    assert any(record.getMessage().startswith(f"POST {CHAT} left ") for record in caplog.records)


def test_a_body_with_two_lengths(server: Any) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    smuggled = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for path in (CHAT, "/health"):
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        lengths = f"Content-Length: {5 + len(smuggled)}\r\nTransfer-Encoding: chunked\r\n\r\n"
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(f"{head}{lengths}0\r\n\r\n{smuggled}".encode())
            with connection.makefile("rb") as answers:
                answer = answers.read()  # to the end: the connection is closed
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b'"code":"ambiguous_length"' in answer
        assert answer.count(b"HTTP/1.1 ") == 1
