"""`edge-llava serve` under load, on loopback: beside llama-server on the same GGUF, and for a long time.

    python benchmarks/serve_load.py throughput BUNDLE --llama-server PATH/TO/llama-server
    python benchmarks/serve_load.py soak BUNDLE --seconds 300

`throughput`: several streams at a time, every one with words of its own; tokens per second of all together, and how
much longer the slowest stream took than the mean one. Both servers run, and take turns.
`soak`: 64 clients with pictures of several sizes and kinds, a third of which leave early. The server must live, answer
everything that it accepted, and keep its memory; after kill -9 it must start again from what lies on disk.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from edge_llava.bundle import Bundle

_EDGE_LLAVA = str(Path(sys.executable).with_name("edge-llava"))
_CHAT = "/v1/chat/completions"
_PATIENCE_S = 120.0
_WORDS = (
    "table", "window", "river", "garden", "bottle", "engine", "letter", "mountain", "pencil", "harbour", "candle",
    "forest",
)  # fmt: skip
_LIMITS = httpx.Limits(max_connections=None)
_MAX_GROWTH = 1.05  # of resident memory, from a soak's second quarter to its last


@dataclass
class Stream:
    """One answer as a client saw it: tokens by the server's count, seconds from the request to first text and end."""

    n_tokens: int
    first_s: float
    whole_s: float


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def running(command: Sequence[object], port: int) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A server as a process, once it is healthy."""
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + _PATIENCE_S
    try:
        while not _is_healthy(url):
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{command[0]} does not serve (exit code {process.poll()})")
            time.sleep(0.1)
        yield url, process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _is_healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=_PATIENCE_S).status_code == 200
    except httpx.TransportError:
        return False


def ours(bundle: Path, port: int, n_threads: int, n_parallel: int, n_queued: int = 64) -> list[object]:
    """Our command line."""
    return [
        _EDGE_LLAVA, "serve", "-m", bundle, "--port", port, "--parallel", n_parallel, "--queue", n_queued,
        "-t", n_threads, "-c", 1024, "--quiet",
    ]  # fmt: skip


def theirs(program: Path, gguf: Path, port: int, n_threads: int, n_parallel: int) -> list[object]:
    """llama-server's, with as many slots of as many positions; its own defaults otherwise."""
    return [
        program, "-m", gguf, "--port", port, "-np", n_parallel, "-c", 1024 * n_parallel, "-t", n_threads,
        "--no-webui", "--no-warmup",
    ]  # fmt: skip


async def read_stream(client: httpx.AsyncClient, words: str, n_tokens: int) -> Stream:
    """Asks for exactly n_tokens, or fewer where the model ends its answer."""
    wanted = {
        "messages": [{"role": "user", "content": f"Write a long story about a {words}."}], "max_tokens": n_tokens,
        "temperature": 0, "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    started, first_s, count = time.perf_counter(), 0.0, 0
    async with client.stream("POST", _CHAT, json=wanted) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            if any(choice["delta"].get("content") for choice in chunk["choices"]):
                first_s = first_s or time.perf_counter() - started
            count = (chunk.get("usage") or {}).get("completion_tokens", count)
    return Stream(count, first_s, time.perf_counter() - started)


async def measure(url: str, n_streams: int, n_tokens: int, draw: random.Random) -> tuple[float, float]:
    """Tokens per second of all streams together, and how many times the mean the slowest one took."""
    texts = [" ".join(draw.sample(_WORDS, 4)) for _ in range(n_streams)]
    async with httpx.AsyncClient(base_url=url, timeout=_PATIENCE_S, limits=_LIMITS) as client:
        started = time.perf_counter()
        streams = await asyncio.gather(*(read_stream(client, text, n_tokens) for text in texts))
        seconds = time.perf_counter() - started
    whole = [stream.whole_s for stream in streams]
    return sum(stream.n_tokens for stream in streams) / seconds, max(whole) / statistics.mean(whole)


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """Throughput and fairness of both servers at 4 and 8 streams."""
    bundle = Bundle.open(arguments.bundle)
    draw, report = random.Random(0), {}
    for n_streams in arguments.streams:
        ports = _free_port(), _free_port()
        here = ours(bundle.path, ports[0], arguments.threads, n_streams)
        there = theirs(arguments.llama_server, bundle.file("language"), ports[1], arguments.threads, n_streams)
        figures: dict[str, list[tuple[float, float]]] = {"ours": [], "peer": []}
        with running(here, ports[0]) as (our_url, _), running(there, ports[1]) as (their_url, _):
            for run in range(arguments.runs + 1):
                for name, url in (("ours", our_url), ("peer", their_url))[:: 1 if run % 2 else -1]:
                    rate = asyncio.run(measure(url, n_streams, arguments.tokens, draw))
                    if run:  # the first of each warms up
                        figures[name].append(rate)
        report[str(n_streams)] = _compare_figures(figures)
        print(f"{n_streams} streams: {json.dumps(report[str(n_streams)])}", file=sys.stderr)
    return report


def _compare_figures(figures: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    ratios = [a[0] / b[0] for a, b in zip(figures["ours"], figures["peer"], strict=True)]
    result: dict[str, Any] = {"ratio": round(statistics.median(ratios), 3)}
    for name, runs in figures.items():
        rates, slowest = [rate for rate, _ in runs], [share for _, share in runs]
        result[name] = {
            "tokens_per_s": round(statistics.median(rates), 2),
            "tokens_per_s_range": [round(min(rates), 2), round(max(rates), 2)],
            "slowest_to_mean": round(statistics.median(slowest), 3),
        }
    return result


@dataclass
class Soak:
    """What the clients of a soak saw."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)


def make_pictures(draw: random.Random) -> list[str]:
    """Data URIs of drawn pictures: several sizes, shapes and kinds of file."""
    found = []
    for format, size in (("JPEG", (640, 480)), ("PNG", (224, 224)), ("JPEG", (1280, 720)), ("WEBP", (300, 500))):
        for _ in range(6):
            pixels = np.random.default_rng(draw.getrandbits(32)).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            file = io.BytesIO()
            Image.fromarray(pixels).resize(size).save(file, format)
            found.append(f"data:image/{format.lower()};base64,{base64.b64encode(file.getvalue()).decode()}")
    return found


def _request(draw: random.Random, pictures: Sequence[str]) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"type": "text", "text": f"What of the {draw.choice(_WORDS)} is in the picture?"}]
    parts += [
        {"type": "image_url", "image_url": {"url": draw.choice(pictures)}} for _ in range(draw.choice((0, 1, 1, 2)))
    ]
    wanted: dict[str, Any] = {"messages": [{"role": "user", "content": parts}], "max_tokens": draw.randint(1, 60)}
    if draw.random() < 0.1:
        wanted["response_format"] = {"type": "json_object"}
    return wanted | {"stream": draw.random() < 0.7, "temperature": draw.choice((0, 0.8)), "seed": draw.getrandbits(31)}


async def _ask_once(client: httpx.AsyncClient, draw: random.Random, pictures: Sequence[str], soak: Soak) -> float:
    """One request. Gives the seconds to wait before the next."""
    wanted, leaves = _request(draw, pictures), draw.random() < 1 / 3
    if leaves and not wanted["stream"]:
        try:
            await client.post(_CHAT, json=wanted, timeout=httpx.Timeout(_PATIENCE_S, read=draw.uniform(0.01, 1)))
        except httpx.ReadTimeout:
            soak.outcomes["left"] += 1
            return 0.0
        soak.outcomes["answered before it left"] += 1
        return 0.0
    started = time.perf_counter()
    async with client.stream("POST", _CHAT, json=wanted) as response:
        if response.status_code == 429:
            soak.outcomes["refused"] += 1
            return min(float(response.headers["retry-after"]), 2.0)
        if response.status_code != 200:
            await response.aread()
            soak.faults.append(f"{response.status_code}: {response.text[:200]}")
            return 0.0
        n_lines, n_leave, last = 0, draw.randint(0, 20) if leaves else 10**9, ""
        async for line in response.aiter_lines():
            if n_lines == 1:
                soak.first_s.append(time.perf_counter() - started)
            n_lines += bool(line)
            last = line or last
            if n_lines > n_leave:
                soak.outcomes["left"] += 1
                return 0.0
    is_whole = last == "data: [DONE]" if wanted["stream"] else "finish_reason" in last
    soak.outcomes["answered"] += is_whole
    if not is_whole:
        soak.faults.append(f"an answer ended with {last[:200]}")
    return 0.0


async def _be_client(url: str, seed: int, until: float, pictures: Sequence[str], soak: Soak) -> None:
    draw = random.Random(seed)
    async with httpx.AsyncClient(base_url=url, timeout=_PATIENCE_S, limits=_LIMITS) as client:
        while time.monotonic() < until:
            try:
                wait_s = await _ask_once(client, draw, pictures, soak)
            except httpx.TransportError as error:
                soak.faults.append(f"{type(error).__name__}: {error}")
                wait_s = 1.0
            await asyncio.sleep(wait_s * draw.uniform(0.5, 1.0))


async def _watch_memory(pid: int, until: float, sizes: list[int]) -> None:
    while time.monotonic() < until:
        sizes.append(_resident_bytes(pid))
        await asyncio.sleep(0.5)


def _resident_bytes(pid: int) -> int:
    found = re.search(r"VmRSS:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text(encoding="ascii"))
    return 1024 * int(found[1]) if found else 0


async def _soak_all(url: str, pid: int, arguments: argparse.Namespace, soak: Soak) -> list[int]:
    until = time.monotonic() + arguments.seconds
    pictures, sizes = make_pictures(random.Random(0)), []
    clients = [_be_client(url, seed, until, pictures, soak) for seed in range(arguments.clients)]
    await asyncio.gather(_watch_memory(pid, until, sizes), *clients)
    return sizes


def soak(arguments: argparse.Namespace) -> dict[str, Any]:
    """The report; its `faults` are empty if all went well."""
    port, seen = _free_port(), Soak()
    command = ours(arguments.bundle, port, arguments.threads, arguments.parallel, arguments.queue)
    command += ["--keep-mb", 64]  # full within seconds, so that what grows beyond it is seen
    with running(command, port) as (url, process):
        sizes = asyncio.run(_soak_all(url, process.pid, arguments, seen))
        _check_idle(url, seen)
        metrics = httpx.get(f"{url}/metrics", timeout=_PATIENCE_S).text
        if process.poll() is not None:
            seen.faults.append(f"the server ended with exit code {process.returncode}")
        process.kill()
        process.wait()
    with running(command, port) as (url, _):
        wanted = {"messages": [{"role": "user", "content": "What?"}], "max_tokens": 4}
        if httpx.post(url + _CHAT, json=wanted, timeout=_PATIENCE_S).status_code != 200:
            seen.faults.append("after kill -9 it does not answer")
    if subprocess.run([_EDGE_LLAVA, "cache", "info"], capture_output=True, check=False).returncode:
        seen.faults.append("after kill -9 the cache cannot be read")
    quarters = [max(sizes[n * len(sizes) // 4 : (n + 1) * len(sizes) // 4]) for n in range(4)]
    growth = quarters[3] / quarters[1]
    if growth > _MAX_GROWTH:
        seen.faults.append(f"resident memory grew to {growth:.2f} of what it was")
    engine = dict(re.findall(r"^edge_llava_(\w+_total) (\S+)$", metrics, re.MULTILINE))
    return {
        "outcomes": dict(seen.outcomes),
        "faults": seen.faults[:20],
        "resident_mb_by_quarter": [size // 10**6 for size in quarters],
        "first_event_s": round(statistics.median(seen.first_s), 3) if seen.first_s else None,
        "engine": engine,
    }


def _check_idle(url: str, seen: Soak) -> None:
    """Nobody is there any more: every place must be free."""
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        state = httpx.get(f"{url}/health", timeout=_PATIENCE_S).json()
        if state["running"] == state["queued"] == 0:
            return
        time.sleep(0.1)
    seen.faults.append(f"places are taken although nobody is there: {state}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    load = commands.add_parser("throughput")
    load.add_argument("--llama-server", type=Path, required=True)
    load.add_argument("--streams", type=int, nargs="+", default=[4, 8])
    load.add_argument("--tokens", type=int, default=64)
    load.add_argument("--runs", type=int, default=5)
    long = commands.add_parser("soak")
    long.add_argument("--seconds", type=float, default=300.0)
    long.add_argument("--clients", type=int, default=64)
    long.add_argument("--parallel", type=int, default=4)
    long.add_argument("--queue", type=int, default=32)
    for command in (load, long):
        command.add_argument("bundle", type=Path)
        command.add_argument("--threads", "-t", type=int, default=2)
    return parser


if __name__ == "__main__":
    chosen = _parser().parse_args()
    result = compare(chosen) if chosen.command == "throughput" else soak(chosen)
    print(json.dumps(result, indent=2))
    sys.exit(1 if result.get("faults") else 0)
