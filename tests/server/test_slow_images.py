"""Images that take long to decode delay only other images."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from edge_llava.server.http.memory_budget import MemoryBudget
from edge_llava.server.images.image_threads import ImageThreads

CHAT = "/v1/chat/completions"


def held_bytes(client: httpx.Client) -> int:
    (line,) = (line for line in client.get("/metrics").text.splitlines() if line.startswith("edge_llava_held_bytes "))
    return int(line.split()[1])


def test_text_is_answered_while_images_are_decoded(server: Any, slow_jpeg: bytes, data_uri: Any, ask_user: Any) -> None:
    messages, order = [ask_user("What?", data_uri(slow_jpeg, "image/jpeg"))], []
    with server.client() as client, ThreadPoolExecutor(8) as clients:

        def look(_: int) -> None:
            answer = server.ask(client, messages=messages)
            order.append(f"image {answer.status_code}")

        asked = [clients.submit(look, number) for number in range(8)]
        server.wait_until(lambda: held_bytes(client) > 12 * 2500 * 2500)  # the first ones are being decoded
        assert server.ask(client).status_code == 200
        order.append("text")
        for answer in asked:
            answer.result()
    assert order.count("image 200") == 8
    assert order.index("text") < 5


def test_a_client_that_leaves_frees_its_place_at_once(
    server: Any, slow_jpeg: bytes, data_uri: Any, ask_user: Any
) -> None:
    """Its memory is released once no thread works on it any more."""
    body = json.dumps({"messages": [ask_user("What?", data_uri(slow_jpeg, "image/jpeg"))], "max_tokens": 1}).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
    with server.client() as client:
        connections = [socket.create_connection(address, timeout=60) for _ in range(8)]
        for connection in connections:
            connection.sendall(head.encode() + b"\r\n\r\n" + body)
        server.wait_until(lambda: held_bytes(client) > 12 * 2500 * 2500)
        for connection in connections:
            connection.close()
        server.wait_until(lambda: "edge_llava_requests_open 1\n" in client.get("/metrics").text)
        assert held_bytes(client) > 12 * 2500 * 2500  # two are being decoded
        server.wait_until(lambda: held_bytes(client) == 0)
        assert server.ask(client, messages=[ask_user("What?", data_uri())]).status_code == 200


class Body:
    """Something large that a client sent."""


def test_a_call_is_left_at_once_and_its_memory_counted_until_it_ends() -> None:
    begun, go_on, budget = threading.Event(), threading.Event(), MemoryBudget(100)

    def work(body: Body) -> None:
        begun.set()
        assert go_on.wait(60)

    async def run() -> None:
        threads, bodies = ImageThreads(1), [Body() for _ in range(3)]
        refs = [weakref.ref(body) for body in bodies]
        shares = [budget.open() for _ in bodies]
        calls = []
        for share, body in zip(shares, bodies, strict=True):
            share.take(10)
            calls.append(asyncio.ensure_future(threads.call(share, work, body)))
        del body
        bodies.clear()
        while not begun.is_set():
            await asyncio.sleep(0.001)
        while calls:
            calls[-1].cancel()
            with pytest.raises(asyncio.CancelledError):
                await calls.pop()
        for share in shares:
            share.release()
        await asyncio.sleep(0)
        assert [ref() is None for ref in refs[1:]] == [True, True]  # they had not begun
        assert budget.n_held == 10
        go_on.set()
        while budget.n_held:
            await asyncio.sleep(0.001)
        with budget.open() as share:
            assert await threads.call(share, max, 3, 5) == 5
            with pytest.raises(KeyError, match="wrong"):
                await threads.call(share, {}.__getitem__, "wrong")

    asyncio.run(run())
