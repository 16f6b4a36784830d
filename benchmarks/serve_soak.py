"""Runs `edge-llava serve` for a long time: 64 clients on loopback, images of several sizes and formats, a third of the
clients leave early.

    python benchmarks/serve_soak.py BUNDLE --seconds 300

The server must stay alive, answer everything that it accepted, free every slot, and not grow in memory. Then it is
killed with SIGKILL among clients; it must start again from its files on disk, and answer. Exits with 1 if it does not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from random_images import image_uri
from servers import CHAT, EDGE_LLAVA, NO_LIMITS, PATIENCE_S, free_port, ours, running

_NOUNS = ("table", "window", "river", "garden", "bottle", "engine", "letter", "mountain")
_KINDS = (("JPEG", (640, 480)), ("PNG", (224, 224)), ("JPEG", (1280, 720)), ("WEBP", (300, 500)))
_KILLED_AFTER_S = 3.0
_MAX_GROWTH = 1.05  # of the median of resident memory, from a soak's second quarter to its last


@dataclass
class Soak:
    """The outcomes that the clients saw."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)


def make_images(rng: random.Random) -> list[str]:
    """Makes data URIs of several sizes and formats."""
    return [image_uri(rng, kind, size) for kind, size in _KINDS for _ in range(6)]


def _request(rng: random.Random, images: Sequence[str]) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"type": "text", "text": f"What of the {rng.choice(_NOUNS)} is in the picture?"}]
    parts += [{"type": "image_url", "image_url": {"url": rng.choice(images)}} for _ in range(rng.choice((0, 1, 1, 2)))]
    wanted: dict[str, Any] = {"messages": [{"role": "user", "content": parts}], "max_tokens": rng.randint(1, 60)}
    if rng.random() < 0.1:
        wanted["response_format"] = {"type": "json_object"}
    return wanted | {"stream": rng.random() < 0.7, "temperature": rng.choice((0, 0.8)), "seed": rng.getrandbits(31)}


async def _ask_once(client: httpx.AsyncClient, rng: random.Random, images: Sequence[str], soak: Soak) -> float:
    """Makes one request. Returns the seconds to wait before the next."""
    wanted, leaves = _request(rng, images), rng.random() < 1 / 3
    if leaves and not wanted["stream"]:
        timeout = httpx.Timeout(PATIENCE_S, read=rng.uniform(0.01, 1))
        try:
            refused = (await client.post(CHAT, json=wanted, timeout=timeout)).status_code == 429
        except httpx.ReadTimeout:
            soak.outcomes["left"] += 1
            return 0.0
        soak.outcomes["refused" if refused else "answered before it left"] += 1
        return float(refused)
    started = time.perf_counter()
    async with client.stream("POST", CHAT, json=wanted) as response:
        if response.status_code == 429:
            soak.outcomes["refused"] += 1
            return min(float(response.headers["retry-after"]), 2.0)
        if response.status_code != 200:
            await response.aread()
            soak.faults.append(f"{response.status_code}: {response.text[:200]}")
            return 0.0
        n_lines, n_leave, last = 0, rng.randint(0, 20) if leaves else 10**9, ""
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


async def _be_client(url: str, seed: int, until: float, images: Sequence[str], soak: Soak) -> None:
    rng = random.Random(seed)
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S, limits=NO_LIMITS) as client:
        while time.monotonic() < until:
            try:
                wait_s = await _ask_once(client, rng, images, soak)
            except httpx.TransportError as error:
                soak.faults.append(f"{type(error).__name__}: {error}")
                wait_s = 1.0
            await asyncio.sleep(wait_s * rng.uniform(0.5, 1.0))


async def _watch_memory(pid: int, until: float, sizes: list[int]) -> None:
    while time.monotonic() < until:
        sizes.append(_resident_bytes(pid))
        await asyncio.sleep(0.5)


def _resident_bytes(pid: int) -> int:
    found = re.search(r"VmRSS:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text(encoding="ascii"))
    return 1024 * int(found[1]) if found else 0


async def _soak_all(url: str, pid: int, arguments: argparse.Namespace, soak: Soak) -> list[int]:
    until = time.monotonic() + arguments.seconds
    images, sizes = make_images(random.Random(0)), []
    clients = [_be_client(url, seed, until, images, soak) for seed in range(arguments.clients)]
    await asyncio.gather(_watch_memory(pid, until, sizes), *clients)
    return sizes


def soak(arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs the soak. The report's `faults` are empty if all went well."""
    port, seen = free_port(), Soak()
    command = ours(arguments.bundle, port, arguments.threads, arguments.parallel, arguments.queue)
    command += ["--keep-mb", 64]  # full within seconds, so that growth beyond it shows
    with running(command, port) as (url, process):
        sizes = asyncio.run(_soak_all(url, process.pid, arguments, seen))
        _check_idle(url, seen)
        metrics = httpx.get(f"{url}/metrics", timeout=PATIENCE_S).text
        if process.poll() is not None:
            seen.faults.append(f"the server ended with exit code {process.returncode}")
        asyncio.run(_kill_among_clients(url, process, arguments.clients))
    with running(command, port) as (url, _):
        wanted = {"messages": [{"role": "user", "content": "What?"}], "max_tokens": 4}
        if httpx.post(url + CHAT, json=wanted, timeout=PATIENCE_S).status_code != 200:
            seen.faults.append("after SIGKILL it does not answer")
    if subprocess.run([EDGE_LLAVA, "cache", "info"], capture_output=True, check=False).returncode:
        seen.faults.append("after SIGKILL the cache cannot be read")
    quarters = [sizes[n * len(sizes) // 4 : (n + 1) * len(sizes) // 4] for n in range(4)]
    medians = [statistics.median(quarter) for quarter in quarters]  # peaks depend on which requests coincide
    growth = medians[3] / medians[1]
    if growth > _MAX_GROWTH:
        seen.faults.append(f"resident memory grew to {growth:.2f} of what it was")
    engine = dict(re.findall(r"^edge_llava_(\w+_total) (\S+)$", metrics, re.MULTILINE))
    return {
        "outcomes": dict(seen.outcomes),
        "faults": seen.faults[:20],
        "resident_mb_by_quarter": [int(size) // 10**6 for size in medians],
        "highest_mb_by_quarter": [max(quarter) // 10**6 for quarter in quarters],
        "first_event_s": round(statistics.median(seen.first_s), 3) if seen.first_s else None,
        "engine": engine,
    }


async def _kill_among_clients(url: str, process: subprocess.Popen[bytes], n_clients: int) -> None:
    until, images, ignored = time.monotonic() + 2 * _KILLED_AFTER_S, make_images(random.Random(1)), Soak()
    clients = [_be_client(url, seed, until, images, ignored) for seed in range(n_clients)]
    asyncio.get_running_loop().call_later(_KILLED_AFTER_S, process.kill)
    await asyncio.gather(*clients)
    process.wait()


def _check_idle(url: str, seen: Soak) -> None:
    """Checks that every slot is free once all clients have left."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        state = httpx.get(f"{url}/health", timeout=PATIENCE_S).json()
        if state["running"] == state["queued"] == 0:
            return
        time.sleep(0.1)
    seen.faults.append(f"slots are taken although all clients have left: {state}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--parallel", type=int, default=4)
    parser.add_argument("--queue", type=int, default=32)
    parser.add_argument("--threads", "-t", type=int, default=2)
    result = soak(parser.parse_args())
    print(json.dumps(result, indent=2))
    sys.exit(1 if result["faults"] else 0)
