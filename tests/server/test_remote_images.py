"""Images from the web: only if allowed, and then from public addresses only. The tests use this machine only."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from edge_llava.server.http.errors import RequestError
from edge_llava.server.images.image_address import ImageAddress
from edge_llava.server.images.remote_images import RemoteImages, RemoteOptions, is_public
from edge_llava.server.options import ServerOptions

Check = Callable[..., dict[str, Any]]
LOCAL = "127.0.0.1"


class Origin:
    """A web server that always sends the same answer, and records the requests."""

    def __init__(self, answer: bytes, *, is_silent: bool = False) -> None:
        self.requests: list[bytes] = []
        self._answer, self._is_silent = answer, is_silent
        self._listener = socket.create_server((LOCAL, 0))
        self.port: int = self._listener.getsockname()[1]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                if self._over.is_set():
                    return
                self.requests.append(connection.recv(65536))
                if self._is_silent:
                    self._over.wait(60)
                with suppress(OSError):  # the client hung up
                    connection.sendall(self._answer)

    def close(self) -> None:
        self._over.set()
        socket.create_connection((LOCAL, self.port)).close()
        self._thread.join()
        self._listener.close()


@contextmanager
def origin(answer: bytes, *, is_silent: bool = False) -> Iterator[Origin]:
    server = Origin(answer, is_silent=is_silent)
    try:
        yield server
    finally:
        server.close()


def ok(body: bytes, head: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\n" + head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def fetch(
    port: int,
    url: str = "http://cat.example/cat.png?size=2",
    *,
    options: RemoteOptions | None = None,
    addresses: Sequence[str] = (LOCAL,),
) -> bytes:
    """Fetches as a server would for which `cat.example` is this machine, and this port is public."""

    async def resolve(host: str, asked: int) -> Sequence[str]:
        assert host == "cat.example"
        return addresses

    def is_allowed(address: str, asked: int) -> bool:
        return address == LOCAL and asked == port

    async def run() -> bytes:
        remote = RemoteImages(options or RemoteOptions(), resolve=resolve, is_allowed=is_allowed)
        return await remote.fetch(ImageAddress(url.replace("cat.example", f"cat.example:{port}", 1), "here"))

    return asyncio.run(run())


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.1.2.3", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1", "192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.1.1.1",
        "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "ff02::1",
        "3fff::1", "3fff:fff:ffff::1", "5f00::1", "2001:2::1", "2001:20::1", "2620:4f:8000::1", "192.0.0.9",
        "192.88.99.1",
        "2001:db8::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:a00:1::1", "::127.0.0.1", "fec0::1", "no address",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address, 443)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_addresses_that_are(address: str) -> None:
    assert is_public(address, 443)
    assert is_public(address, 80)
    assert not is_public(address, 22)
    assert not is_public(address, 8080)


def test_an_image_is_fetched() -> None:
    with origin(ok(b"the image")) as there:
        assert fetch(there.port) == b"the image"
        (request,) = there.requests
    lines = request.decode().split("\r\n")
    assert lines[0] == "GET /cat.png?size=2 HTTP/1.1"
    assert f"Host: cat.example:{there.port}" in lines
    assert not [line for line in lines if line.lower().startswith(("authorization", "cookie", "user-agent"))]


def test_chunks_and_closings_are_read() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nthe\r\n4\r\n cat\r\n0\r\n\r\n"
    with origin(chunked) as there:
        assert fetch(there.port) == b"the cat"
    with origin(b"HTTP/1.0 200 OK\r\n\r\nthe cat") as there:
        assert fetch(there.port) == b"the cat"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n", "not followed"),
        (b"HTTP/1.1 301 Moved\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n", "not followed"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "status 404"),
        (b"HTTP/1.1 206 Partial\r\nContent-Length: 0\r\n\r\n", "status 206"),
        (ok(b"x", b"Content-Encoding: gzip\r\n"), "compressed"),
        (ok(b"x" * 101), "more than 100 bytes"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"64\r\n" + b"x" * 100 + b"\r\n" + b"1\r\ny\r\n",
            "more",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort", "speak HTTP"),
        (b"SSH-2.0-OpenSSH\r\n", "speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 40_000, "speak HTTP"),
        (b"", "speak HTTP"),
    ],
)
def test_answers_that_are_not_taken(answer: bytes, says: str) -> None:
    with origin(answer) as there, pytest.raises(RequestError, match=says) as caught:
        fetch(there.port, options=RemoteOptions(max_bytes=100))
    assert caught.value.status == 400
    assert caught.value.body["error"]["param"] == "here"


def test_time_is_capped() -> None:
    with origin(ok(b"late"), is_silent=True) as there, pytest.raises(RequestError, match=r"within 0\.2 s"):
        fetch(there.port, options=RemoteOptions(timeout_s=0.2))


@pytest.mark.parametrize("addresses", [["10.0.0.1"], [LOCAL, "10.0.0.1"], ["10.0.0.1", LOCAL], []])
def test_one_address_that_is_not_allowed_is_enough(addresses: list[str]) -> None:
    with origin(ok(b"x")) as there:
        with pytest.raises(RequestError, match="only public hosts"):
            fetch(there.port, addresses=addresses)
        assert there.requests == []


def test_a_name_is_resolved_once_and_what_was_checked_is_connected_to() -> None:
    """DNS rebinding: the name is public when it is checked, and would be here a moment later."""
    asked = []

    async def resolve(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return [LOCAL] if len(asked) == 1 else ["10.0.0.1"]

    async def run(port: int) -> bytes:
        remote = RemoteImages(RemoteOptions(), resolve=resolve, is_allowed=lambda address, _: address == LOCAL)
        return await remote.fetch(ImageAddress(f"http://cat.example:{port}/", "here"))

    with origin(ok(b"checked")) as there:
        assert asyncio.run(run(there.port)) == b"checked"
    assert asked == ["cat.example"]


@pytest.mark.parametrize(
    "url",
    [
        "http://", "http:///cat.png", "http://user@cat.example/", "http://user:secret@cat.example/",
        "http://cat.example:0/", "http://cat.example:99999/", "http://cat.example:x/", "http://[::1/",
        "http://c\u00e4t.example/", "http://cat.example/a b", "http://cat.example/\r\nX: y", "http://cat.example/\x00",
    ],
)  # fmt: skip
def test_invalid_addresses(url: str) -> None:
    async def run() -> bytes:
        return await RemoteImages(RemoteOptions()).fetch(ImageAddress(url, "here"))

    with pytest.raises(RequestError) as caught:
        asyncio.run(run())
    assert caught.value.status == 400


def test_a_slow_name_server_delays_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lookup cannot be interrupted, but the request and the loop end without it."""
    release = threading.Event()

    def ask(*arguments: object, **options: object) -> Any:
        release.wait(60)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", ask)

    async def run() -> None:
        remote = RemoteImages(RemoteOptions(timeout_s=0.1))
        await asyncio.gather(*(remote.fetch(ImageAddress("http://cat.example/", "here")) for _ in range(3)))

    with pytest.raises(RequestError, match="within"):
        asyncio.run(run())
    threads = [thread for thread in threading.enumerate() if thread.name == "edge-llava-names"]
    assert len(threads) == 3
    release.set()
    for thread in threads:
        thread.join()


@pytest.fixture(scope="module")
def fetching(run_server: Callable[..., Any]) -> Any:
    """A server that may fetch images."""
    return run_server(ServerOptions(remote_images=True))


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "2130706433", "0x7f000001", "127.1", "0", "[::1]", "[::ffff:127.0.0.1]", "10.0.0.1",
     "169.254.169.254", "[fe80::1]"],
)  # fmt: skip
def test_a_server_asks_no_private_host(fetching: Any, check_error: Check, ask_user: Any, host: str) -> None:
    """Tries every spelling of its address; the socket that listens there receives nothing."""
    with socket.create_server((LOCAL, 0)) as listener, fetching.client() as client:
        listener.setblocking(False)
        for port in ("", f":{listener.getsockname()[1]}"):
            answer = fetching.ask(client, messages=[ask_user("What?", f"http://{host}{port}/latest/meta-data")])
            check_error(answer, 400, "invalid_image_url", "messages[0].content[1].image_url.url")
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_files_are_never_read(fetching: Any, check_error: Check, ask_user: Any, tmp_path: Any, image_file: Any) -> None:
    path = tmp_path / "cat.png"
    path.write_bytes(image_file())
    with fetching.client() as client:
        for url in (str(path), f"file://{path}", f"file:{path}", f"http:{path}", f"http://{path}"):
            assert check_error(fetching.ask(client, messages=[ask_user("What?", url)]), 400)["code"] in (
                "invalid_image", "invalid_image_url",
            )  # fmt: skip


def test_a_fetched_image_is_answered_about(
    run_server: Callable[..., Any], ask_user: Any, data_uri: Any, image_file: Any
) -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        return [LOCAL]

    remote = RemoteImages(RemoteOptions(), resolve=resolve, is_allowed=lambda address, port: address == LOCAL)
    server = run_server(remote=remote)
    with origin(ok(image_file(seed=40))) as there, server.client() as client:
        texts = [
            server.ask(client, messages=[ask_user("What?", url)], temperature=0).json()["choices"][0]["message"]
            for url in (f"http://cat.example:{there.port}/", data_uri(seed=40))
        ]
    assert texts[0] == texts[1]
