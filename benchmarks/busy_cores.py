"""Other programs keep cores busy: how much longer a turn takes by default than with the best number of threads.

    python benchmarks/busy_cores.py demo
    python benchmarks/busy_cores.py BUNDLE --tokens 16 --rounds 3

A turn is an image, a question, and an answer of so many tokens, each in a new process without a profile or a cache. The
settings take turns; medians of the rounds are printed. `-t N` computes with N threads whatever happens, as the default
did before it looked at what other programs do.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

_ASK = ("-p", "Describe the image in detail.", "--temp", "0", "--json", "--no-cache", "--no-profile")


@click.command()
@click.argument("bundle")
@click.option("--image", default="demo:1", show_default=True)
@click.option("--tokens", default=64, show_default=True, help="Of the answer, at most.")
@click.option("--busy", default="0,1,2", show_default=True, help="Numbers of programs that compute beside it.")
@click.option("--rounds", default=5, show_default=True)
def main(bundle: str, image: str, tokens: int, busy: str, rounds: int) -> None:
    """Measure a turn beside busy programs, by default and with each number of threads."""
    choices = [None, *range(1, (os.cpu_count() or 1) + 1)]
    command = [sys.executable, "-m", "edge_llava.cli", "chat", image, "-m", bundle, "-n", str(tokens), *_ASK]
    names = ["default" if n is None else f"-t {n}" for n in choices]
    click.echo(f"| busy | {' | '.join(names)} | default / best |\n|{'---|' * (len(names) + 2)}")
    for n_busy in map(int, busy.split(",")):
        seconds: dict[int | None, list[float]] = {n: [] for n in choices}
        with _busy_programs(n_busy):
            for _ in range(rounds):
                for n in choices:
                    seconds[n].append(_turn_s([*command, *([] if n is None else ["-t", str(n)])]))
        medians = [statistics.median(seconds[n]) for n in choices]
        cells = [f"{median:.2f} s" for median in medians]
        click.echo(f"| {n_busy} | {' | '.join(cells)} | {medians[0] / min(medians[1:]):.2f} |")


def _turn_s(command: list[str]) -> float:
    timings = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["timings"]
    return float(timings["ttft_s"] + timings["decode_s"])


@contextmanager
def _busy_programs(n: int) -> Iterator[None]:
    programs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


if __name__ == "__main__":
    main()
