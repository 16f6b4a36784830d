"""Many clients: the queue is bounded, a client that disconnects frees its slot, and no client delays others."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from itertools import pairwise
from typing import Any

import httpx
import llguidance
import pytest

from edge_llava.runtime.language import json_grammar
from edge_llava.server.http.event_stream import EventStream
from edge_llava.server.http.limits import Limits
from edge_llava.server.openai import chat_endpoint
from edge_llava.server.options import ServerOptions

CHAT = "/v1/chat/completions"
Check = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def narrow(make_engine: Callable[..., Any], run_server: Callable[..., Any]) -> Any:
    """A server with one slot, and one place in the queue."""
    return run_server(engine=make_engine(parallel=1, n_queued=1))


def endless(**fields: Any) -> dict[str, Any]:
    """A request whose greedy answer fills the context."""
    return {"messages": [{"role": "user", "content": "What?"}], "temperature": 0, "stream": True} | fields


def is_idle(server: Any) -> bool:
    metrics = server.engine.metrics
    return metrics.running == metrics.queued == 0


def pieces(response: httpx.Response) -> Iterator[str]:
    """The texts of a stream as they arrive."""
    for line in response.iter_lines():
        if line.startswith("data: {"):
            for choice in json.loads(line[6:])["choices"]:
                yield choice["delta"].get("content") or ""


def test_two_streams_interleave(server: Any) -> None:
    async def read(client: httpx.AsyncClient, name: str, order: list[str]) -> None:
        async with client.stream("POST", CHAT, json=endless(max_tokens=200)) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    order.append(name)

    async def read_both() -> list[str]:
        order: list[str] = []
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            await asyncio.gather(read(client, "a", order), read(client, "b", order))
        return order

    order = asyncio.run(read_both())
    first, last = {n: order.index(n) for n in "ab"}, {n: len(order) - order[::-1].index(n) for n in "ab"}
    assert max(first.values()) < min(last.values())
    turns = sum(one != other for one, other in pairwise(order))
    assert turns > 20


def test_a_full_queue_is_429_and_says_when(narrow: Any, check_error: Check) -> None:
    async def ask_many() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=narrow.url, timeout=60) as client:
            wanted = endless(stream=False)
            return await asyncio.gather(*(client.post(CHAT, json=wanted) for _ in range(10)))

    answers = asyncio.run(ask_many())
    refused = [answer for answer in answers if answer.status_code != 200]
    assert 0 < len(refused) <= 8
    for answer in refused:
        check_error(answer, 429, "rate_limit_exceeded")
        assert int(answer.headers["retry-after"]) >= 1
    whole = [answer.json() for answer in answers if answer.status_code == 200]
    assert {answer["choices"][0]["finish_reason"] for answer in whole} == {"length"}


def test_too_many_requests_at_a_time_are_503(run_server: Callable[..., Any], check_error: Check) -> None:
    server = run_server(ServerOptions(limits=Limits(n_requests=1)))
    with server.client() as one, server.client() as other:
        with one.stream("POST", CHAT, json=endless()):
            answer = other.get("/v1/models")
            check_error(answer, 503, "server_unavailable")
            assert answer.headers["retry-after"]
            health = other.get("/health")  # busy is not dead: a watchdog must not end it
            assert (health.status_code, health.json()["busy"]) == (200, True)
        server.wait_until(lambda: other.get("/v1/models").status_code == 200)


@pytest.mark.parametrize("n_read", [1, 2, 3, 20])
@pytest.mark.parametrize("again", range(3))  # what is being sent in that moment differs
def test_a_client_that_leaves_a_stream_frees_its_place(narrow: Any, n_read: int, again: int) -> None:
    before = narrow.engine.metrics
    with narrow.client() as client, client.stream("POST", CHAT, json=endless()) as response:
        texts = pieces(response)
        for _ in range(n_read):
            next(texts)
    narrow.wait_until(lambda: narrow.engine.metrics.cancelled_total == before.cancelled_total + 1)
    assert is_idle(narrow)
    assert narrow.engine.metrics.tokens_total - before.tokens_total < 900


def test_a_client_that_leaves_while_it_waits_frees_its_place(narrow: Any) -> None:
    host, port = narrow.url.removeprefix("http://").split(":")
    before = narrow.engine.metrics.cancelled_total
    body = json.dumps(endless(stream=False)).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    connections = []
    for n_inside in (1, 2):
        connections.append(socket.create_connection((host, int(port)), timeout=60))
        connections[-1].sendall(head.encode() + b"\r\n\r\n" + body)
        narrow.wait_until(lambda n=n_inside: narrow.engine.metrics.running + narrow.engine.metrics.queued == n)
    for connection in reversed(connections):  # who waits, then who is answered
        connection.close()
    narrow.wait_until(lambda: narrow.engine.metrics.cancelled_total == before + 2)
    assert is_idle(narrow)


def test_memory_counts_as_held_until_the_work_on_it_has_ended(
    run_server: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that sends and disconnects does not free memory for its next body while this one is being parsed."""
    server = run_server()
    begun, go_on, parse = threading.Event(), threading.Event(), chat_endpoint.parse_body

    def hold(body: bytes) -> Any:
        begun.set()
        assert go_on.wait(60)
        return parse(body)

    def metric(name: str) -> int:
        lines = client.get("/metrics").text.splitlines()
        return int(next(line for line in lines if line.startswith(f"edge_llava_{name} ")).split()[1])

    monkeypatch.setattr(chat_endpoint, "parse_body", hold)
    host, port = server.url.removeprefix("http://").split(":")
    body = json.dumps(endless(user="x" * 100_000)).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    with server.client() as client:
        before = server.engine.metrics
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(head.encode() + b"\r\n\r\n" + body)
            assert begun.wait(60)
        for _ in range(20):
            assert metric("held_bytes") >= len(body)
        go_on.set()
        server.wait_until(lambda: metric("held_bytes") == 0)
        after = server.engine.metrics
        assert (after.answers_total, after.cancelled_total) == (before.answers_total, before.cancelled_total)
        assert is_idle(server)


def test_a_slow_reader_delays_no_other_client(server: Any) -> None:
    """One client reads nothing; others get whole answers in that time, and its own is computed."""
    host, port = server.url.removeprefix("http://").split(":")
    body = json.dumps(endless()).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    before = server.engine.metrics.answers_total
    with socket.socket() as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        lazy.settimeout(60)
        lazy.connect((host, int(port)))
        lazy.sendall(head.encode() + b"\r\n\r\n" + body)
        with server.client() as client:
            for _ in range(3):
                assert server.ask(client, max_tokens=50, temperature=0).status_code == 200
        server.wait_until(lambda: server.engine.metrics.answers_total == before + 4)
        received = b""
        while not received.endswith(b"0\r\n\r\n"):  # what waited for it was kept
            part = lazy.recv(65536)
            assert part
            received += part
    assert b"data: [DONE]" in received
    assert received.count(b'"delta":{"content"') > 500


def test_a_stalled_reader_is_disconnected() -> None:
    ended = []

    async def parts() -> AsyncGenerator[bytes, None]:
        yield b"data: 1\n\n"

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.sleep(3600)

    async def receive() -> Any:
        await asyncio.sleep(3600)

    stream = EventStream(parts(), lambda: ended.append(True), stalled_s=0.01)
    asyncio.run(stream({"type": "http"}, receive, send))
    assert ended == [True]


def test_silence_is_interrupted() -> None:
    sent = []

    async def parts() -> AsyncGenerator[bytes, None]:
        while len(sent) < 5:
            await asyncio.sleep(0.01)
        yield b"data: 1\n\n"

    async def send(message: Any) -> None:
        sent.append(message.get("body"))

    async def receive() -> Any:
        await asyncio.sleep(3600)

    stream = EventStream(parts(), lambda: None, stalled_s=60, beat_s=0.001)
    asyncio.run(stream({"type": "http"}, receive, send))
    assert sent[0] is None
    assert set(sent[1:-2]) == {b": still here\n\n"}
    assert sent[-2:] == [b"data: 1\n\n", b""]


def test_an_engine_that_was_closed_is_503(
    make_engine: Callable[..., Any], run_server: Callable[..., Any], check_error: Check
) -> None:
    server = run_server(engine=make_engine(parallel=1))
    with server.client() as client:
        assert client.get("/health").status_code == 200
        server.engine.close()
        check_error(client.get("/health"), 503, "server_unavailable")
        check_error(server.ask(client), 503, "server_unavailable")


def test_shutdown_sends_every_client_an_error(make_engine: Callable[..., Any], run_server: Callable[..., Any]) -> None:
    server = run_server(engine=make_engine(parallel=1, n_queued=4))

    async def talk() -> tuple[list[str], httpx.Response, httpx.Response]:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            async with client.stream("POST", CHAT, json=endless()) as response:
                lines = response.aiter_lines()
                await anext(lines)
                waiting = asyncio.ensure_future(client.post(CHAT, json=endless(stream=False)))
                while server.engine.metrics.queued == 0:
                    await asyncio.sleep(0.005)
                server.loop.call_soon_threadsafe(server.app.answers.stop)
                rest = [line async for line in lines if line]
            return rest, await waiting, await client.post(CHAT, json=endless())

    rest, waited, late = asyncio.run(talk())
    assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "server_unavailable"
    assert waited.status_code == late.status_code == 503
    with server.client() as client:
        assert client.get("/health").status_code == 503


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_schema_that_takes_too_long_ends_its_own_answer(
    server: Any, check_error: Check, monkeypatch: pytest.MonkeyPatch, is_stream: bool
) -> None:
    """This is found while the answer is computed; others are answered before and after."""
    monkeypatch.setattr(json_grammar, "_LIMITS", llguidance.LLParserLimits(step_max_items=1, verbose_errors=False))
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array"}}}
    before = server.engine.metrics.failed_total
    with server.client() as client:
        answer = client.post(CHAT, json=endless(stream=is_stream, response_format=wanted))
        if is_stream:
            error = json.loads(answer.text.split("data: ")[-1])["error"]
            assert (error["code"], error["param"]) == ("invalid_json_schema", "response_format")
        else:
            check_error(answer, 400, "invalid_json_schema", "response_format")
        server.wait_until(lambda: server.engine.metrics.failed_total == before + 1)  # counted once it was reported
        assert server.ask(client).status_code == 200
