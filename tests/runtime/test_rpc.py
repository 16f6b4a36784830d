"""A language model on the devices of other computers: two RPC servers on the loopback interface.

    EDGE_LLAVA_BACKENDS=DIRECTORY pytest -m slow tests/runtime/test_rpc.py

DIRECTORY holds a libggml-rpc.so of the installed llama.cpp; see docs/devices.md. The servers are that library's own.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import threading
import time

import pytest

from edge_llava.errors import BackendError
from edge_llava.ggml.plugins import plugin_libraries
from edge_llava.ggml.rpc import _add, connect_rpc

needs_rpc = pytest.mark.skipif(
    not any("ggml-rpc" in path.name for path in plugin_libraries()), reason="no libggml-rpc is installed"
)
SERVE = """
import ctypes, sys
from edge_llava.ggml.library import bind
from edge_llava.ggml.plugins import load_plugins, plugin_libraries
load_plugins()
(path,) = (path for path in plugin_libraries() if "ggml-rpc" in path.name)
device = bind("ggml_backend_dev_by_name", ctypes.c_void_p, [ctypes.c_char_p])(b"CPU")
serve = ctypes.CDLL(str(path)).ggml_backend_rpc_start_server
serve.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p]
serve(sys.argv[1].encode(), None, 1, 1, (ctypes.c_void_p * 1)(device))
"""


@pytest.fixture
def servers():
    """Addresses of two servers, and their processes."""
    with socket.socket() as first, socket.socket() as second:
        for free in (first, second):
            free.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{free.getsockname()[1]}" for free in (first, second)]
    running = [
        subprocess.Popen([sys.executable, "-c", SERVE, address], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for address in addresses
    ]
    try:
        for address in addresses:
            _wait_for(address)
        yield addresses, running
    finally:
        for process in running:
            process.kill()
            process.wait()


def _wait_for(address: str) -> None:
    host, _, port = address.partition(":")
    for _ in range(100):
        try:
            socket.create_connection((host, int(port)), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"no server at {address}")


def chat(bundle, *words: object, n: int = 16) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge_llava.cli", "chat", "-m", str(bundle), "-p", "What?", "-n", str(n)]
    command += ["--temp", "0", "--no-cache", "--no-profile", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@needs_rpc
@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["--gpu-layers", "1"], ["--gpu-layers", "2"]])
def test_the_same_tokens_as_on_this_computer(seeded_f32, servers, words):
    here, there = chat(seeded_f32), chat(seeded_f32, "--rpc", ",".join(servers[0]), *words)
    assert there.returncode == 0, there.stderr
    assert there.stdout == here.stdout != ""


@needs_rpc
@pytest.mark.slow
def test_a_server_that_leaves_is_an_error_and_nothing_hangs(seeded_f32, servers):
    addresses, running = servers
    command = [sys.executable, "-m", "edge_llava.cli", "chat", "-m", str(seeded_f32), "--rpc", ",".join(addresses)]
    command += ["--no-cache", "--no-profile", "-n", "900", "-p", "What?"]
    asking = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert asking.stdout is not None
        ready, _, _ = select.select([asking.stdout], [], [], 60)
        assert ready, "it does not answer"
        running[1].kill()
        running[1].wait()
        _, errors = asking.communicate(timeout=60)
    finally:
        asking.kill()
    assert asking.returncode == 9, errors
    assert b"edge-llava: llama.cpp cannot continue: ggml-rpc" in errors


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"1234567", None])
def test_another_server_is_an_error(monkeypatch, answer):
    """llama.cpp would end the process, or wait for ever."""
    monkeypatch.setattr("edge_llava.ggml.rpc._LIMIT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"

        def serve():
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(answer or b"")
                if answer is None:
                    time.sleep(1)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(BackendError, match=rf"{address}.*Start it there: rpc-server"):
            connect_rpc([address])
        thread.join()


def test_a_host_that_is_none():
    with pytest.raises(BackendError, match=r"no RPC server answers at a\.\.b:50052"):
        connect_rpc(["a..b:50052"])


def test_no_server_is_an_error(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(BackendError, match=rf"no RPC server answers at {address}"):
            connect_rpc([address])


@pytest.mark.parametrize(
    "address",
    ["", "host", ":1", "host:", "host:port", "a b:1", "host:123456", "http://host:1", "[::1]:50052", "foo:bar:5"],
)
def test_what_is_no_address(address):
    with pytest.raises(ValueError, match="is named HOST:PORT"):
        connect_rpc([address])


@pytest.mark.skipif(bool(os.environ.get("EDGE_LLAVA_BACKENDS")), reason="plug-ins are named")
def test_a_build_without_rpc_says_so():
    with pytest.raises(BackendError, match="built without RPC"):
        _add("127.0.0.1:50052")


def test_a_library_that_is_no_backend_is_named(tmp_path, monkeypatch):
    (tmp_path / "libggml-broken.so").write_bytes(b"nothing")
    monkeypatch.setenv("EDGE_LLAVA_BACKENDS", str(tmp_path))
    command = [sys.executable, "-c", "from edge_llava.ggml.devices import list_devices; list_devices()"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert f"BackendError: llama.cpp cannot load {tmp_path / 'libggml-broken.so'}" in ended.stderr
