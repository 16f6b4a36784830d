"""The address that a server prints."""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest

from edge_llava.errors import EdgeLlavaError
from edge_llava.server.http.listening import is_loopback_socket, listen, url_of


@pytest.fixture
def listen_at() -> Iterator[Callable[[str], socket.socket]]:
    """listen_at(host) -> a socket at a free port; the test is skipped if it needs IPv6 and there is none."""
    opened = []

    def open_(host: str) -> socket.socket:
        if ":" in host and not _has_ipv6():
            pytest.skip("this machine has no IPv6")
        (listener,) = listen(host, 0)
        opened.append(listener)
        return listener

    yield open_
    for listener in opened:
        listener.close()


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as tried:
            tried.bind(("::1", 0))
    except OSError:
        return False
    return True


def _unused_port() -> int:
    """A port that is free at both addresses, and stays free: from 32,768 on, systems give them to other programs."""
    for port in random.sample(range(20_000, 30_000), 100):
        try:
            with socket.create_server(("127.0.0.1", port)), socket.create_server(("::1", port), family=socket.AF_INET6):
                return port
        except OSError:
            continue
    pytest.skip("no port is free")


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
def test_one_address(listen_at: Callable[[str], socket.socket], host: str, shown: str) -> None:
    listener = listen_at(host)
    assert is_loopback_socket(listener)
    assert url_of(listener) == f"http://{shown}:{listener.getsockname()[1]}"


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_everywhere_is_shown_as_an_address_that_can_be_opened(
    listen_at: Callable[[str], socket.socket], host: str
) -> None:
    listener = listen_at(host)
    assert not is_loopback_socket(listener)
    shown = urlsplit(url_of(listener))
    assert shown.hostname not in (None, "0.0.0.0", "::")
    socket.create_connection((shown.hostname, shown.port), timeout=10).close()


@pytest.mark.parametrize("port", [0, None])
@pytest.mark.parametrize("host", ["localhost", "LOCALHOST."])
def test_localhost_is_both_addresses(host: str, port: int | None) -> None:
    if not _has_ipv6():
        pytest.skip("this machine has no IPv6")
    wanted = _unused_port() if port is None else port
    listeners = listen(host, wanted)
    try:
        assert [listener.getsockname()[0] for listener in listeners] == ["127.0.0.1", "::1"]
        (shared,) = {listener.getsockname()[1] for listener in listeners}
        assert wanted in (0, shared)
        assert all(map(is_loopback_socket, listeners))
        assert url_of(listeners[0]) == f"http://127.0.0.1:{shared}"
        for address in ("127.0.0.1", "::1"):
            socket.create_connection((address, shared), timeout=10).close()
    finally:
        for listener in listeners:
            listener.close()


@pytest.mark.parametrize("taken", ["127.0.0.1", "::1"])
def test_localhost_needs_the_port_at_both_addresses(taken: str) -> None:
    if not _has_ipv6():
        pytest.skip("this machine has no IPv6")
    port = _unused_port()
    (other,) = listen(taken, port)
    try:
        with pytest.raises(EdgeLlavaError, match=f"port {port} of localhost is in use"):
            listen("localhost", port)
    finally:
        other.close()
    for listener in listen("localhost", port):  # the one that was free is free again
        listener.close()


def test_localhost_without_ipv6_is_one_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def bind(family: int, address: tuple[str, int]) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EADDRNOTAVAIL, "no IPv6 here")
        return socket.create_server(address)

    monkeypatch.setattr("edge_llava.server.http.listening._bind", bind)
    (listener,) = listen("localhost", 0)
    with listener:
        assert listener.getsockname()[0] == "127.0.0.1"
