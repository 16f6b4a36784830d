"""Questions about one image: how many a second are answered one at a time, and several at a time.

    python benchmarks/parallel_questions.py BUNDLE --tokens 2
    python benchmarks/parallel_questions.py BUNDLE --tokens 16

Asks POPE-like questions behind one image, whose positions are in the KV cache, as `edge-llava eval` does. The numbers
of slots take turns; medians of the rounds are printed, their ratio to one at a time, and how many texts differ.
"""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import click
import numpy as np

from edge_llava.bundle.bundle import Bundle, open_bundle
from edge_llava.evaluation.asking import for_questions
from edge_llava.runtime.dialogue.messages import Message
from edge_llava.runtime.model import LlavaModel
from edge_llava.runtime.options import EngineOptions, SamplingOptions

_THINGS = ("circle", "square", "triangle", "star", "ring", "cross", "heart")
_COLOURS = ("red", "blue", "green", "yellow", "orange", "purple")
_TAIL = "Answer the question using a single word or phrase."


@click.command()
@click.argument("bundle")
@click.option("--n", default=32, show_default=True, help="Questions of a round.")
@click.option("--tokens", default=2, show_default=True, help="Of an answer, at most.")
@click.option("--slots", default="1,4", show_default=True, help="Questions at a time; the first is compared with.")
@click.option("--rounds", default=3, show_default=True)
def main(bundle: str, n: int, tokens: int, slots: str, rounds: int) -> None:
    """Measure questions a second, one and several at a time."""
    opened = open_bundle(bundle)
    numbers = [int(number) for number in slots.split(",")]
    speeds: dict[int, list[float]] = {number: [] for number in numbers}
    texts: dict[int, list[str]] = {}
    for _ in range(rounds):
        for number in numbers:
            speed, texts[number] = _measure(opened, for_questions(EngineOptions(), opened, number, tokens), n, tokens)
            speeds[number].append(speed)
    one = statistics.median(speeds[numbers[0]])
    click.echo("| at a time | questions/s | range | ratio | texts that differ |\n|---|---|---|---|---|")
    for number in numbers:
        median, own = statistics.median(speeds[number]), speeds[number]
        n_other = sum(a != b for a, b in zip(texts[numbers[0]], texts[number], strict=True))
        spread = f"{min(own):.2f} to {max(own):.2f}"
        click.echo(f"| {number} | {median:.2f} | {spread} | {median / one:.2f} | {n_other} of {n} |")


def _measure(bundle: Bundle, options: EngineOptions, n: int, tokens: int) -> tuple[float, list[str]]:
    sampling = SamplingOptions(temperature=0, max_new_tokens=tokens)
    pixels = np.random.default_rng(0).integers(0, 255, (336, 336, 3), dtype=np.uint8)
    n_threads = 1 if options.parallel == 1 else 2 * options.parallel  # as `edge-llava eval`
    with LlavaModel(bundle, options) as model, ThreadPoolExecutor(n_threads) as threads:
        image = model.embed_image(pixels)

        def ask(number: int) -> str:
            said: list[str] = []
            thing = f"{_COLOURS[number % len(_COLOURS)]} {_THINGS[number % len(_THINGS)]}"
            question = Message("user", f"Is there a {thing} in the image?\n{_TAIL}", (image,))
            answer = model.submit([question], sampling, lambda token: said.append(token.text), alone=True)
            answer.wait()
            return "".join(said)

        ask(0)  # the image is computed
        started = time.perf_counter()
        texts = list(threads.map(ask, range(1, n + 1)))
        return n / (time.perf_counter() - started), texts


if __name__ == "__main__":
    main()
