"""Listening sockets. They are opened before the model is loaded, so that a port conflict is reported at once."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from typing import Any

from edge_llava.errors import EdgeLlavaError

_LOOPBACK = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
_NO_FAMILY = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # the machine does not have IPv4, or IPv6
_N_TRIES = 10  # for a free port that both addresses have

# by family: an unassigned address (RFC 5737, RFC 3849), and the loopback one
_ELSEWHERE = {socket.AF_INET: ("192.0.2.1", "127.0.0.1"), socket.AF_INET6: ("2001:db8::1", "::1")}


def listen(host: str, port: int) -> list[socket.socket]:
    """Listens on a TCP port. Connections are not accepted yet: early clients wait.

    Args:
        host: A name or an address; "localhost" is 127.0.0.1 and ::1, each where this machine has it, since some clients
            try only one of them.
        port: 0 chooses any free port.

    Returns:
        The sockets, at least one; all have the same port.

    Raises:
        EdgeLlavaError: If that is not possible; the message says why, and what to do.
    """
    if host.lower().rstrip(".") != "localhost":
        return [_listen_at(host, port)]
    reason = OSError()
    for _ in range(1 if port else _N_TRIES):
        try:
            return _listen_at_loopback(port)
        except OSError as error:
            reason = error
            if error.errno != errno.EADDRINUSE:
                break
    raise EdgeLlavaError(_explain(reason, host, port)) from reason


def _listen_at_loopback(port: int) -> list[socket.socket]:
    listeners: list[socket.socket] = []
    for family, address in _LOOPBACK:
        try:
            listeners.append(_bind(family, (address, listeners[0].getsockname()[1] if listeners else port)))
        except OSError as error:
            is_last_hope = not listeners and family == _LOOPBACK[-1][0]
            if error.errno in _NO_FAMILY and not is_last_hope:
                continue
            for listener in listeners:
                listener.close()
            raise
    return listeners


def _listen_at(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (socket.gaierror, UnicodeError) as error:
        raise EdgeLlavaError(f"--host {host}: this machine has no such name or address.") from error
    try:
        return _bind(family, address)
    except OSError as error:
        raise EdgeLlavaError(_explain(error, host, port)) from error


def _bind(family: int, address: tuple[Any, ...]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # on Windows, a second server could take the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener


def is_loopback_socket(listener: socket.socket) -> bool:
    """Whether only this machine can reach the socket."""
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


def url_of(listener: socket.socket) -> str:
    """The URL for clients, "http://127.0.0.1:8080"; with this machine's usual address if the socket listens on all."""
    host, port = listener.getsockname()[:2]
    if ipaddress.ip_address(host.partition("%")[0]).is_unspecified:
        host = _usual_address(listener.family)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _usual_address(family: int) -> str:
    """The address that other machines see; loopback if there is no network."""
    away, loopback = _ELSEWHERE[socket.AddressFamily(family)]
    with socket.socket(family, socket.SOCK_DGRAM) as asked:
        try:
            asked.connect((away, 9))  # UDP: this chooses the route, and sends nothing
        except OSError:
            return loopback
        return str(asked.getsockname()[0])


def _explain(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is in use. Stop the program that uses it, or choose another: --port 0 takes any."
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"port {port} of {host} is not permitted for this user. Choose one above 1023 with --port."
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--host {host} is not an address of this machine."
    return f"{host}:{port} cannot be listened on: {error.strerror}."
