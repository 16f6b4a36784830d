"""Devices of other computers, by llama.cpp's RPC backend: plain TCP without a key or encryption.

Source: add_rpc_devices in llama.cpp's common/arg.cpp.
"""

from __future__ import annotations

import ctypes
import re
import socket
import struct
from collections.abc import Sequence

from edge_llava.errors import BackendError
from edge_llava.ggml.library import bind

RPC_ADDRESS = re.compile(r"[\w.-]+:\d{1,5}")  # ggml splits at the first colon: no IPv6
_HELLO, _CAPABILITIES = 14, 24  # RPC_CMD_HELLO, and the bytes of what a client can do
_SIZE = struct.Struct("<Q")
_LIMIT_S = 5.0
_connected: list[str] = []


def connect_rpc(addresses: Sequence[str]) -> None:
    """Adds the devices of RPC servers to this process; models that are opened later use them as GPUs.

    Each server is greeted first, because llama.cpp ends the process where none answers, or waits for ever. It also ends
    it when a server leaves while it is used.

    Args:
        addresses: "HOST:PORT" of each.

    Raises:
        ValueError: If an address is none.
        BackendError: If llama.cpp was built without RPC, or no server answers.
    """
    faults = [repr(address) for address in addresses if not RPC_ADDRESS.fullmatch(address)]
    if faults:
        raise ValueError(f"an RPC server is named HOST:PORT, not {', '.join(faults)}")
    for address in addresses:
        if address not in _connected:
            _try(address)
            _add(address)
            _connected.append(address)


def _try(address: str) -> None:
    """Says hello as ggml-rpc.cpp does: a command, the size of the request, the request; then the answer's size."""
    host, _, port = address.rpartition(":")
    start = f"Start it there: rpc-server -p {port}"
    try:
        with socket.create_connection((host, int(port)), _LIMIT_S) as connection:
            connection.settimeout(_LIMIT_S)
            connection.sendall(bytes([_HELLO]) + _SIZE.pack(_CAPABILITIES) + bytes(_CAPABILITIES))
            size = connection.makefile("rb").read(_SIZE.size)
    except (OSError, OverflowError, UnicodeError) as error:
        raise BackendError(f"no RPC server answers at {address}: {error}. {start}") from error
    if len(size) < _SIZE.size or _SIZE.unpack(size)[0] != 4 + _CAPABILITIES:
        raise BackendError(f"what answers at {address} is not the rpc-server of this version of llama.cpp. {start}")


def _add(address: str) -> None:
    from edge_llava.ggml.plugins import load_plugins

    load_plugins()
    pointer, text = ctypes.c_void_p, ctypes.c_char_p
    backend = bind("ggml_backend_reg_by_name", pointer, [text])(b"RPC")
    if not backend:
        raise BackendError(
            "the installed llama.cpp was built without RPC. Install llama-cpp-python again with "
            "CMAKE_ARGS=-DGGML_RPC=on, or edge-llava-rpc."
        )
    find = bind("ggml_backend_reg_get_proc_address", pointer, [pointer, text])
    add_server = ctypes.CFUNCTYPE(pointer, text)(find(backend, b"ggml_backend_rpc_add_server"))
    server = add_server(address.encode())
    if not server:
        raise BackendError(f"the RPC server at {address} offers no device. Is it of this version of llama.cpp?")
    bind("ggml_backend_register", None, [pointer])(server)
