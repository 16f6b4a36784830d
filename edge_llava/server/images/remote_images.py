"""Fetches images from the web if the server allows it: from public addresses only, with limits of size and time.

A name is resolved once; all its addresses must be public, and the connection goes to one that was checked, so that the
name cannot point elsewhere a moment later (DNS rebinding). Redirects are not followed.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

import anyio
import h11

from edge_llava.server.http.errors import RequestError
from edge_llava.server.images.image_address import ImageAddress

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
_PORTS = {"http": 80, "https": 443}
_READ_BYTES = 65536
_MAX_HEAD = 32768
# Special addresses (IANA's registries) that some version of Python takes for public: documentation (RFC 5737,
# 3849, 9637), benchmarks (RFC 2544, 5180), protocol assignments (RFC 6890, 2928) with ORCHID, old relays (RFC 7526),
# AS112 and AMT (RFC 7534, 7535, 7450), segment routing (RFC 9602).
_SPECIAL = tuple(
    map(
        ipaddress.ip_network,
        (
            "0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24",
            "192.88.99.0/24", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
            "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2620:4f:8000::/48", "3fff::/20", "5f00::/16",
        ),
    )
)  # fmt: skip
# Prefixes that carry an IPv4 address which the gateway would reach: NAT64 (RFC 6052).
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True)
class RemoteOptions:
    """How images are fetched.

    Attributes:
        max_bytes: Largest size of one image file.
        timeout_s: From resolving the name to the last byte.
        n_at_once: Images that are fetched at the same time; others wait.
    """

    max_bytes: int = 20 * 2**20
    timeout_s: float = 15.0
    n_at_once: int = 8


class RemoteImages:
    """Fetches images from public addresses."""

    def __init__(
        self,
        options: RemoteOptions,
        *,
        resolve: Resolve | None = None,
        is_allowed: Callable[[str, int], bool] | None = None,
    ) -> None:
        """
        Args:
            options: Limits.
            resolve: (host, port) -> its addresses; None asks the system.
            is_allowed: (address, port) -> whether it may be connected to; None allows public ones at ports 80 and 443.
        """
        self._options = options
        self._resolve = resolve or _resolve
        self._is_allowed = is_allowed or is_public
        self._room = asyncio.Semaphore(options.n_at_once)

    async def fetch(self, address: ImageAddress) -> bytes:
        """Fetches the bytes at an http(s) address.

        Raises:
            RequestError: 400 if the address is not allowed, or nothing usable arrives from it in time.
        """
        url = _split(address)
        async with self._room:
            try:
                with anyio.fail_after(self._options.timeout_s):
                    return await self._fetch(url, address.param)
            except TimeoutError as error:
                raise _failed(address.param, f"nothing arrived within {self._options.timeout_s:g} s") from error
            except (OSError, h11.RemoteProtocolError, UnicodeError) as error:
                raise _failed(address.param, "the host cannot be reached, or does not speak HTTP") from error

    async def _fetch(self, url: SplitResult, param: str) -> bytes:
        host, port = str(url.hostname), url.port or _PORTS[url.scheme]
        addresses = await self._resolve(host, port)
        if not addresses or not all(self._is_allowed(found, port) for found in addresses):
            raise _failed(param, "only public hosts are allowed, at ports 80 and 443")
        secure = ssl.create_default_context() if url.scheme == "https" else None
        reader, writer = await asyncio.open_connection(
            addresses[0], port, ssl=secure, server_hostname=host if secure else None
        )
        try:
            return await self._exchange(reader, writer, url, param)
        finally:
            writer.close()

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, url: SplitResult, param: str
    ) -> bytes:
        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)
        headers = [
            ("Host", url.netloc),
            ("Accept", "image/*"),
            ("Accept-Encoding", "identity"),
            ("Connection", "close"),
        ]
        request = h11.Request(method="GET", target=_target(url), headers=headers)
        writer.write(connection.send(request) + connection.send(h11.EndOfMessage()))
        await writer.drain()
        parts, n_bytes = [], 0
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(_READ_BYTES))
            elif isinstance(event, h11.Response):
                _check_response(event, param)
            elif isinstance(event, h11.Data):
                n_bytes += len(event.data)
                if n_bytes > self._options.max_bytes:
                    raise _failed(param, f"the image has more than {self._options.max_bytes} bytes")
                parts.append(bytes(event.data))
            elif isinstance(event, (h11.EndOfMessage, h11.ConnectionClosed)):
                return b"".join(parts)


def is_public(address: str, port: int) -> bool:
    """Whether an address belongs to the public internet, and the port to the web."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:  # with a zone ("fe80::1%eth0"): local
        return False
    return port in _PORTS.values() and _is_global(ip)


def _is_global(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(ip, ipaddress.IPv6Address):
        inner = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
        if ip in _NAT64:
            inner.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
        carried = [address for address in inner if address is not None]
        if carried:
            return all(map(_is_global, carried))
        if ip.is_site_local:
            return False
    if any(ip in network for network in _SPECIAL):
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified or ip.is_loopback)


async def _resolve(host: str, port: int) -> Sequence[str]:
    """Asks the system's resolver on a separate thread, because a lookup may be slow and cannot be interrupted."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[Sequence[str]] = loop.create_future()

    def ask() -> None:
        with suppress(RuntimeError):  # the loop is closed: the result is no longer needed
            try:
                entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError) as error:
                loop.call_soon_threadsafe(_settle, found, error)
            else:
                loop.call_soon_threadsafe(_settle, found, [str(entry[4][0]) for entry in entries])

    threading.Thread(target=ask, name="edge-llava-names", daemon=True).start()
    return await found


def _settle(found: asyncio.Future[Sequence[str]], answer: Sequence[str] | Exception) -> None:
    if found.done():  # the request was cancelled
        return
    if isinstance(answer, Exception):
        found.set_exception(answer)
    else:
        found.set_result(answer)


def _split(address: ImageAddress) -> SplitResult:
    try:
        url = urlsplit(address.url)
        port = url.port
    except ValueError as error:
        raise _failed(address.param, "this is not a web address") from error
    if not url.hostname or port == 0 or not address.url.isascii() or any(c <= " " or c == "\x7f" for c in address.url):
        raise _failed(address.param, "this is not a web address; characters other than ASCII must be encoded")
    if url.username is not None or url.password is not None:
        raise _failed(address.param, "an address with a user name or password is not allowed")
    return url


def _target(url: SplitResult) -> str:
    return (url.path or "/") + (f"?{url.query}" if url.query else "")


def _check_response(response: h11.Response, param: str) -> None:
    if 300 <= response.status_code < 400:
        raise _failed(param, "the host redirects, and redirects are not followed. Give the final address")
    if response.status_code != 200:
        raise _failed(param, f"the host answered with status {response.status_code}")
    encodings = [value for name, value in response.headers if name == b"content-encoding"]
    if any(value.strip().lower() != b"identity" for value in encodings):
        raise _failed(param, "the host sent a compressed body, which was not requested")


def _failed(param: str, why: str) -> RequestError:
    return RequestError(400, f"The image at '{param}' cannot be fetched: {why}.", code="invalid_image_url", param=param)
