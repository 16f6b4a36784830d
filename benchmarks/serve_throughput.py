"""Compares `edge-llava serve` with llama-server: several clients at once, the same GGUF, in turns, on loopback.

    python benchmarks/serve_throughput.py BUNDLE --llama-server PATH/TO/llama-server

Measures the tokens per second of all streams together, and how much longer than average the slowest stream waited for
its first text and for its end. Three cases:

    words      streams that start together, each with its own words
    images     the same with a new image each (640 x 480); needs a bundle of `edge-llava convert --mmproj`
    late       running streams, and a long question (about 700 positions) that arrives later: the longest pause of the
               running ones, and how long the late one waits for its first text
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from random_images import image_uri
from servers import CHAT, NO_LIMITS, PATIENCE_S, free_port, ours, running, theirs

from edge_llava.bundle.bundle import Bundle

_WORDS = (
    "table", "window", "river", "garden", "bottle", "engine", "letter", "mountain", "pencil", "harbour", "candle",
    "forest",
)  # fmt: skip
_N_LATE_WORDS = 350  # about two positions each
_LATE_AFTER_S = 1.0


@dataclass(frozen=True)
class Stream:
    """One answer as a client saw it.

    Attributes:
        n_tokens: Tokens, as counted by the server.
        first_s: Seconds from the request to the first text.
        whole_s: Seconds from the request to the end.
        gap_s: The longest time between two texts, in seconds.
    """

    n_tokens: int
    first_s: float
    whole_s: float
    gap_s: float


Figures = dict[str, float]
Case = Callable[[httpx.AsyncClient, int, int, random.Random], Awaitable[Figures]]


async def read_stream(client: httpx.AsyncClient, text: str, n_tokens: int, image: str | None = None) -> Stream:
    """Reads one answer of n_tokens, or fewer if the model ends it. The image is a data URI."""
    parts = [{"type": "image_url", "image_url": {"url": image}}] if image else []
    wanted = {
        "messages": [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}],
        "max_tokens": n_tokens, "temperature": 0, "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    started, arrivals, count = time.perf_counter(), [], 0
    async with client.stream("POST", CHAT, json=wanted) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            if any(choice["delta"].get("content") for choice in chunk["choices"]):
                arrivals.append(time.perf_counter() - started)
            count = (chunk.get("usage") or {}).get("completion_tokens", count)
    whole_s = time.perf_counter() - started
    if not arrivals:
        raise RuntimeError(f"a stream of {count} tokens contained no text")
    gaps = [later - earlier for earlier, later in itertools.pairwise(arrivals)]
    return Stream(count, arrivals[0], whole_s, max(gaps, default=0.0))


def _question(rng: random.Random) -> str:
    return f"Write a long story about a {' '.join(rng.sample(_WORDS, 4))}."


async def _together(
    client: httpx.AsyncClient, n_streams: int, n_tokens: int, rng: random.Random, images: Sequence[str | None]
) -> Figures:
    texts = [_question(rng) for _ in range(n_streams)]
    started = time.perf_counter()
    streams = await asyncio.gather(
        *(read_stream(client, text, n_tokens, image) for text, image in zip(texts, images, strict=True))
    )
    seconds = time.perf_counter() - started
    first, whole = [stream.first_s for stream in streams], [stream.whole_s for stream in streams]
    return {
        "tokens_per_s": sum(stream.n_tokens for stream in streams) / seconds,
        "mean_first_s": statistics.mean(first),
        "first_slowest_to_mean": max(first) / statistics.mean(first),
        "whole_slowest_to_mean": max(whole) / statistics.mean(whole),
    }


async def words(client: httpx.AsyncClient, n_streams: int, n_tokens: int, rng: random.Random) -> Figures:
    """Streams that start together."""
    return await _together(client, n_streams, n_tokens, rng, [None] * n_streams)


async def images(client: httpx.AsyncClient, n_streams: int, n_tokens: int, rng: random.Random) -> Figures:
    """Streams that start together, each with a new image."""
    return await _together(
        client, n_streams, n_tokens, rng, [image_uri(rng, "JPEG", (640, 480)) for _ in range(n_streams)]
    )


async def late(client: httpx.AsyncClient, n_streams: int, n_tokens: int, rng: random.Random) -> Figures:
    """Running streams, and one that arrives late with a long question."""

    async def come_late() -> Stream:
        await asyncio.sleep(_LATE_AFTER_S)
        return await read_stream(client, " ".join(rng.choices(_WORDS, k=_N_LATE_WORDS)), n_tokens // 2)

    short = [read_stream(client, _question(rng), 2 * n_tokens) for _ in range(n_streams - 1)]
    *streams, long = await asyncio.gather(*short, come_late())
    return {
        "gap_s": max(stream.gap_s for stream in streams),
        "late_first_s": long.first_s,
        "n_running": sum(stream.whole_s > _LATE_AFTER_S + long.first_s for stream in streams),
    }


CASES: dict[str, Case] = {"words": words, "images": images, "late": late}


async def _measure(url: str, case: Case, n_streams: int, n_tokens: int, rng: random.Random) -> Figures:
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S, limits=NO_LIMITS) as client:
        return await case(client, n_streams, n_tokens, rng)


def compare(bundle: Bundle, arguments: argparse.Namespace, case: str, n_streams: int) -> dict[str, Any]:
    """Medians and ranges of one case; both servers run and are measured in turns."""
    ports = free_port(), free_port()
    here = ours(bundle.path, ports[0], arguments.threads, n_streams)
    there = theirs(arguments.llama_server, bundle, ports[1], arguments.threads, n_streams)
    figures: dict[str, list[Figures]] = {"ours": [], "peer": []}
    rng = random.Random(0)
    with running(here, ports[0]) as (our_url, _), running(there, ports[1]) as (their_url, _):
        for run in range(arguments.runs + 1):
            for name, url in (("ours", our_url), ("peer", their_url))[:: 1 if run % 2 else -1]:
                taken = asyncio.run(_measure(url, CASES[case], n_streams, arguments.tokens, rng))
                if run:  # the first of each warms up
                    figures[name].append(taken)
    return {
        key: {
            "ours_to_peer": round(statistics.median(_ratios(figures, key)), 3),
            **{name: _summary([run[key] for run in runs]) for name, runs in figures.items()},
        }
        for key in figures["ours"][0]
    }


def _ratios(figures: dict[str, list[Figures]], key: str) -> list[float]:
    return [here[key] / max(there[key], 1e-9) for here, there in zip(figures["ours"], figures["peer"], strict=True)]


def _summary(values: Sequence[float]) -> list[float]:
    """The median, minimum and maximum."""
    return [round(number, 3) for number in (statistics.median(values), min(values), max(values))]


def main() -> None:
    """Prints the report as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--llama-server", type=Path, required=True)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--streams", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", "-t", type=int, default=2)
    arguments = parser.parse_args()
    bundle, report = Bundle.open(arguments.bundle), {}
    for case in arguments.cases:
        for n_streams in arguments.streams:
            name = f"{case}, {n_streams} streams"
            report[name] = compare(bundle, arguments, case, n_streams)
            print(f"{name}: {json.dumps(report[name])}", file=sys.stderr)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
