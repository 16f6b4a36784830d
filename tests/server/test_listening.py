"""Where a server says that it is found."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest

from edge_llava.server.listening import is_loopback_socket, listen, url_of


@pytest.fixture
def listen_at() -> Iterator[Callable[[str], socket.socket]]:
    """listen_at(host) -> a socket at a free port; the test is skipped where IPv6 is asked for and not there."""
    opened = []

    def open_(host: str) -> socket.socket:
        if ":" in host and not _has_ipv6():
            pytest.skip("this machine has no IPv6")
        opened.append(listen(host, 0))
        return opened[-1]

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
