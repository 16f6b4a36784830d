"""`edge-llava serve` and llama-server answer several clients at a time, on the same GGUF, in turn, on loopback.

    python benchmarks/serve_throughput.py BUNDLE --llama-server PATH/TO/llama-server

Tokens per second of all streams together, and how much longer the slowest stream waited than the mean one, for its
first text and for its end. Three cases:

    words      streams that begin together, every one with words of its own
    pictures   the same with a new picture each (640 x 480); needs a bundle of `edge-llava convert --mmproj`
    late       streams that run, and a long question (some 700 positions) that comes among them: how long the running
               ones then say nothing at most, and how long the long one waits for its first text
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
from drawn_pictures import picture_uri
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
        n_tokens: By the server's count.
        first_s: From the request to the first text.
        whole_s: From the request to the end.
        gap_s: The longest time between two texts.
    """

    n_tokens: int
    first_s: float
    whole_s: float
    gap_s: float


Figures = dict[str, float]
Case = Callable[[httpx.AsyncClient, int, int, random.Random], Awaitable[Figures]]


async def read_stream(client: httpx.AsyncClient, text: str, n_tokens: int, picture: str | None = None) -> Stream:
    """Asks for n_tokens, or fewer where the model ends its answer. The picture is a data URI."""
    parts = [{"type": "image_url", "image_url": {"url": picture}}] if picture else []
    wanted = {
        "messages": [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}],
        "max_tokens": n_tokens, "temperature": 0, "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    started, said, count = time.perf_counter(), [], 0
    async with client.stream("POST", CHAT, json=wanted) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            if any(choice["delta"].get("content") for choice in chunk["choices"]):
                said.append(time.perf_counter() - started)
            count = (chunk.get("usage") or {}).get("completion_tokens", count)
    whole_s = time.perf_counter() - started
    if not said:
        raise RuntimeError(f"a stream of {count} tokens said nothing")
    gaps = [later - earlier for earlier, later in itertools.pairwise(said)]
    return Stream(count, said[0], whole_s, max(gaps, default=0.0))


def _question(draw: random.Random) -> str:
    return f"Write a long story about a {' '.join(draw.sample(_WORDS, 4))}."


async def _together(
    client: httpx.AsyncClient, n_streams: int, n_tokens: int, draw: random.Random, pictures: Sequence[str | None]
) -> Figures:
    texts = [_question(draw) for _ in range(n_streams)]
    started = time.perf_counter()
    streams = await asyncio.gather(
        *(read_stream(client, text, n_tokens, picture) for text, picture in zip(texts, pictures, strict=True))
    )
    seconds = time.perf_counter() - started
    first, whole = [stream.first_s for stream in streams], [stream.whole_s for stream in streams]
    return {
        "tokens_per_s": sum(stream.n_tokens for stream in streams) / seconds,
        "mean_first_s": statistics.mean(first),
        "first_slowest_to_mean": max(first) / statistics.mean(first),
        "whole_slowest_to_mean": max(whole) / statistics.mean(whole),
    }


async def words(client: httpx.AsyncClient, n_streams: int, n_tokens: int, draw: random.Random) -> Figures:
    """Streams that begin together."""
    return await _together(client, n_streams, n_tokens, draw, [None] * n_streams)


async def pictures(client: httpx.AsyncClient, n_streams: int, n_tokens: int, draw: random.Random) -> Figures:
    """Streams that begin together, each with a picture that nobody has sent before."""
    return await _together(
        client, n_streams, n_tokens, draw, [picture_uri(draw, "JPEG", (640, 480)) for _ in range(n_streams)]
    )


async def late(client: httpx.AsyncClient, n_streams: int, n_tokens: int, draw: random.Random) -> Figures:
    """One stream comes late, with a long question."""

    async def come_late() -> Stream:
        await asyncio.sleep(_LATE_AFTER_S)
        return await read_stream(client, " ".join(draw.choices(_WORDS, k=_N_LATE_WORDS)), n_tokens // 2)

    short = [read_stream(client, _question(draw), 2 * n_tokens) for _ in range(n_streams - 1)]
    *streams, long = await asyncio.gather(*short, come_late())
    return {
        "gap_s": max(stream.gap_s for stream in streams),
        "late_first_s": long.first_s,
        "n_running": sum(stream.whole_s > _LATE_AFTER_S + long.first_s for stream in streams),
    }


CASES: dict[str, Case] = {"words": words, "pictures": pictures, "late": late}


async def _measure(url: str, case: Case, n_streams: int, n_tokens: int, draw: random.Random) -> Figures:
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S, limits=NO_LIMITS) as client:
        return await case(client, n_streams, n_tokens, draw)


def compare(bundle: Bundle, arguments: argparse.Namespace, case: str, n_streams: int) -> dict[str, Any]:
    """Medians and ranges of one case, both servers running and taking turns."""
    ports = free_port(), free_port()
    here = ours(bundle.path, ports[0], arguments.threads, n_streams)
    there = theirs(arguments.llama_server, bundle, ports[1], arguments.threads, n_streams)
    figures: dict[str, list[Figures]] = {"ours": [], "peer": []}
    draw = random.Random(0)
    with running(here, ports[0]) as (our_url, _), running(there, ports[1]) as (their_url, _):
        for run in range(arguments.runs + 1):
            for name, url in (("ours", our_url), ("peer", their_url))[:: 1 if run % 2 else -1]:
                taken = asyncio.run(_measure(url, CASES[case], n_streams, arguments.tokens, draw))
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
    """Median, least, most."""
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
