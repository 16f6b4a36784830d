"""Starts servers of the chat API as processes on loopback: ours, and llama-server on the same GGUF."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from edge_llava.bundle.bundle import Bundle

EDGE_LLAVA = str(Path(sys.executable).with_name("edge-llava"))
CHAT = "/v1/chat/completions"
PATIENCE_S = 600.0  # a full queue of images takes minutes on a small machine
N_CTX = 2048  # per conversation
NO_LIMITS = httpx.Limits(max_connections=None)


def free_port() -> int:
    """A free port of 127.0.0.1."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def running(command: Sequence[object], port: int) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Runs a server and yields its address and process once it is healthy. SIGTERM ends it."""
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + PATIENCE_S
    try:
        while not _is_healthy(url):
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{command[0]} does not serve (exit code {process.poll()})")
            time.sleep(0.1)
        yield url, process
    finally:
        process.terminate()
        process.wait()


def _is_healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=PATIENCE_S).status_code == 200
    except httpx.TransportError:
        return False


def ours(bundle: Path, port: int, n_threads: int, n_parallel: int, n_queued: int = 64) -> list[object]:
    """The command line of `edge-llava serve`."""
    return [
        EDGE_LLAVA, "serve", "-m", bundle, "--port", port, "--parallel", n_parallel, "--queue", n_queued,
        "-t", n_threads, "-c", N_CTX, "--quiet",
    ]  # fmt: skip


def theirs(program: Path, bundle: Bundle, port: int, n_threads: int, n_parallel: int) -> list[object]:
    """The command line of llama-server with as many slots and positions, and its own defaults otherwise."""
    command: list[object] = [
        program, "-m", bundle.file("language"), "--port", port, "-np", n_parallel, "-c", N_CTX * n_parallel,
        "-t", n_threads, "--no-webui", "--no-warmup",
    ]  # fmt: skip
    return command + (["--mmproj", bundle.file("mmproj")] if "mmproj" in bundle.manifest.files else [])
