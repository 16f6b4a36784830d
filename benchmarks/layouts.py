"""Weights as they lie in the file, and rearranged for the CPU: how fast each computes prompts and answers.

    python benchmarks/layouts.py BUNDLE --rounds 8

Both are in memory and take turns, in another order every round: a prompt as long as an image and its question, then
tokens one by one. Medians are printed, and the median of the rounds' ratios.
"""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack, closing

import click
import numpy as np

from edge_llava.bundle.bundle import open_bundle
from edge_llava.runtime.kv.sequences import KvSequence
from edge_llava.runtime.language.decoder import Decoder, TokenChunk
from edge_llava.runtime.options import DecoderOptions

_LAYOUTS = {"as in the file": False, "rearranged": True}


@click.command()
@click.argument("bundle")
@click.option("--positions", default=616, show_default=True, help="Of the prompt.")
@click.option("--tokens", default=24, show_default=True, help="Of the answer.")
@click.option("--rounds", default=8, show_default=True)
@click.option("-t", "--threads", default=2, show_default=True)
def main(bundle: str, positions: int, tokens: int, rounds: int, threads: int) -> None:
    """Measure prefill and decode with each layout."""
    opened = open_bundle(bundle)
    path, spec = opened.file("language"), opened.manifest.language
    per_position: dict[str, list[float]] = {name: [] for name in _LAYOUTS}
    per_token: dict[str, list[float]] = {name: [] for name in _LAYOUTS}
    with ExitStack() as stack:
        decoders = {
            name: stack.enter_context(
                closing(Decoder(path, spec, DecoderOptions(n_ctx=1024, n_threads=threads, repack=repack)))
            )
            for name, repack in _LAYOUTS.items()
        }
        for number in range(rounds):
            for name in sorted(_LAYOUTS, reverse=bool(number % 2)):
                prefill_s, decode_s = _measure(decoders[name], positions, tokens)
                per_position[name].append(prefill_s / positions)
                per_token[name].append(decode_s / tokens)
    click.echo("| what | as in the file | rearranged | ratio |\n|---|---|---|---|")
    for what, figures in (("a position of a prompt", per_position), ("a token", per_token)):
        plain, rearranged = figures.values()
        ratio = statistics.median(a / b for a, b in zip(plain, rearranged, strict=True))
        medians = [f"{1000 * statistics.median(each):.1f} ms" for each in (plain, rearranged)]
        click.echo(f"| {what} | {' | '.join(medians)} | {ratio:.2f} |")


def _measure(decoder: Decoder, n_positions: int, n_tokens: int) -> tuple[float, float]:
    """Seconds for a prompt, and for the tokens after it."""
    random = np.random.default_rng(0)
    prompt = random.integers(3, decoder.spec.n_vocab, n_positions).tolist()
    sequence = decoder.sequences.claim(prompt)
    started = time.perf_counter()
    for start in range(0, n_positions, decoder.n_batch):
        _compute(decoder, sequence, prompt[start : start + decoder.n_batch])
    middle = time.perf_counter()
    for token in random.integers(3, decoder.spec.n_vocab, n_tokens).tolist():
        _compute(decoder, sequence, [token])
    ended = time.perf_counter()
    decoder.sequences.truncate(sequence, 0)
    decoder.sequences.release(sequence)
    return middle - started, ended - middle


def _compute(decoder: Decoder, sequence: KvSequence, ids: list[int]) -> None:
    decoder.decode_tokens([TokenChunk(sequence, ids, is_last=True)])
    decoder.logits()  # waits


if __name__ == "__main__":
    main()
