"""A socket to listen on: opened before the model is loaded, so that a port in use is known at once."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket

from edge_llava.errors import EdgeLlavaError

# by family: an address of nobody (RFC 5737, RFC 3849), and the loopback one
_ELSEWHERE = {socket.AF_INET: ("192.0.2.1", "127.0.0.1"), socket.AF_INET6: ("2001:db8::1", "::1")}


def listen(host: str, port: int) -> socket.socket:
    """Listens at a TCP port. Nothing is accepted yet: clients that come early wait.

    Args:
        host: A name or an address.
        port: 0 takes any that is free.

    Raises:
        EdgeLlavaError: If that is not possible; says why, and what to do.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        raise EdgeLlavaError(f"--host {host}: there is no such name or address on this machine.") from error
    listener = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # Windows would let a second server take the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        raise EdgeLlavaError(_explain(error, host, port)) from error
    return listener


def is_loopback_socket(listener: socket.socket) -> bool:
    """Whether only this machine can reach it."""
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


def url_of(listener: socket.socket) -> str:
    """Where clients find it: "http://127.0.0.1:8080"; of one that listens everywhere, this machine's usual address."""
    host, port = listener.getsockname()[:2]
    if ipaddress.ip_address(host.partition("%")[0]).is_unspecified:
        host = _usual_address(listener.family)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _usual_address(family: int) -> str:
    """The address that this machine shows to others; loopback where it has no network."""
    away, loopback = _ELSEWHERE[socket.AddressFamily(family)]
    with socket.socket(family, socket.SOCK_DGRAM) as asked:
        try:
            asked.connect((away, 9))  # of UDP: chooses the way, and sends nothing
        except OSError:
            return loopback
        return str(asked.getsockname()[0])


def _explain(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} of {host} is in use. Stop what listens there, or choose another: --port 0 takes a free one."
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"port {port} of {host} may not be used by this user. Choose one above 1023 with --port."
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--host {host} is no address of this machine."
    return f"{host}:{port} cannot be listened on: {error.strerror}."
