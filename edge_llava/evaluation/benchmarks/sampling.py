"""A part of a benchmark, by whole pictures: the same part for the same seed, and a part of every larger one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_llava.evaluation.benchmarks.benchmark import Benchmark, Figure, Item, Mark, Marked


@dataclass(frozen=True)
class Part:
    """Some questions of a benchmark, which are scored as all of them would be.

    Attributes:
        whole: The benchmark.
        items: The questions.
    """

    whole: Benchmark
    items: Sequence[Item]

    @property
    def name(self) -> str:
        """Of the benchmark."""
        return self.whole.name

    @property
    def variant(self) -> str:
        """Of the benchmark, and how many of its questions these are."""
        return f"{self.whole.variant}; {len(self.items):,} of {len(self.whole.items):,} questions"

    def find_image(self, name: str, directory: Path) -> Path | bytes:
        """As the benchmark does."""
        return self.whole.find_image(name, directory)

    def answer_key(self, question_id: str | int, prompt: str) -> str:
        """As of the benchmark."""
        return self.whole.answer_key(question_id, prompt)

    def units(self, marked: Sequence[Marked]) -> Sequence[Marked]:
        """As of the benchmark."""
        return self.whole.units(marked)

    def mark(self, item: Item, text: str) -> Mark:
        """As the benchmark does."""
        return self.whole.mark(item, text)

    def figures(self, marked: Sequence[Marked]) -> list[Figure]:
        """As of the benchmark."""
        return self.whole.figures(marked)


def sample(benchmark: Benchmark, n: int | None, seed: int) -> Benchmark:
    """Takes whole pictures, in an order that the seed decides, until there are at least n questions; None: all.

    Pictures are of all categories as often as in the benchmark, up to chance. What belongs together stays together:
    the pairs of MME, the rotations of MMBench, POPE's three sets.
    """
    if n is None or n >= len(benchmark.items):
        return benchmark
    sizes: dict[str, int] = {}
    for item in benchmark.items:
        sizes[item.picture] = sizes.get(item.picture, 0) + 1
    ranked = sorted(sizes, key=lambda picture: hashlib.sha256(f"{seed}:{picture}".encode()).digest())
    chosen, n_chosen = set[str](), 0
    for picture in ranked:
        if n_chosen >= n:
            break
        chosen.add(picture)
        n_chosen += sizes[picture]
    return Part(benchmark, [item for item in benchmark.items if item.picture in chosen])
