"""A part of a benchmark, by whole pictures: the same part for the same seed, and a part of every larger one."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edge_llava.evaluation.benchmarks.benchmark import Benchmark, Figure, Item, Mark, Marked
from edge_llava.evaluation.benchmarks.source import Source

_SEVERAL = "several"  # the stratum of pictures with questions of several categories


@dataclass
class Part:
    """Some questions of a benchmark, which are scored as all of them would be.

    Attributes:
        whole: The benchmark.
        items: The questions.
        source: Where they come from.
    """

    whole: Benchmark
    items: Sequence[Item]
    source: Source | None

    @property
    def name(self) -> str:
        """Of the benchmark."""
        return self.whole.name

    @property
    def variant(self) -> str:
        """Of the benchmark, and how many of its questions these are."""
        return f"{self.whole.variant}; {len(self.items):,} of {len(self.whole.items):,} questions"

    @property
    def is_of_1_5(self) -> bool:
        """As of the benchmark."""
        return self.whole.is_of_1_5

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

    def upload(self, answers: Mapping[str, str]) -> Any:
        """As of the benchmark; nothing of a sample, since servers want all questions."""
        is_sample = self.source is None or self.source.n_sample is not None
        return None if is_sample else self.whole.upload(answers)


def sample(benchmark: Benchmark, n: int | None, seed: int) -> Benchmark:
    """Takes whole pictures, in an order that the seed decides, until there are at least n questions; None: all.

    The order takes pictures of each category in proportion. What belongs together stays together: the pairs of MME, the
    rotations of MMBench, POPE's three sets.
    """
    if n is None or n >= len(benchmark.items):
        return benchmark
    chosen, n_chosen = set[str](), 0
    by_picture: dict[str, list[Item]] = defaultdict(list)
    for item in benchmark.items:
        by_picture[item.picture].append(item)
    for picture in _rank(by_picture, seed):
        if n_chosen >= n:
            break
        chosen.add(picture)
        n_chosen += len(by_picture[picture])
    source = None if benchmark.source is None else replace(benchmark.source, n_sample=n, seed=seed)
    return Part(benchmark, [item for item in benchmark.items if item.picture in chosen], source)


def leave_out(benchmark: Benchmark, keys: Collection[str]) -> Benchmark:
    """The benchmark, or a part of it, without some questions."""
    if not keys:
        return benchmark
    whole = benchmark.whole if isinstance(benchmark, Part) else benchmark
    source = None if benchmark.source is None else replace(benchmark.source, left_out=frozenset(keys))
    return Part(whole, [item for item in benchmark.items if item.key not in keys], source)


def _rank(by_picture: Mapping[str, Sequence[Item]], seed: int) -> list[str]:
    """Pictures in their order: each category's by digest, and those of all categories as far as each has come."""
    strata: dict[str, list[tuple[bytes, str]]] = defaultdict(list)
    for picture, items in by_picture.items():
        digest = hashlib.sha256(f"{seed}:{picture}".encode()).digest()
        strata[_stratum(items)].append((digest, picture))
    ranked = []
    for pictures in strata.values():
        pictures.sort()
        ranked += [((n + 0.5) / len(pictures), digest, picture) for n, (digest, picture) in enumerate(pictures)]
    return [picture for _, _, picture in sorted(ranked)]


def _stratum(items: Sequence[Item]) -> str:
    """The category of a picture: of the first kind of groups that its questions have."""
    names = {next(iter(item.groups.values()), "") for item in items}
    return names.pop() if len(names) == 1 else _SEVERAL
