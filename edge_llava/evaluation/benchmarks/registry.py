"""The benchmarks by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edge_llava.errors import DataError
from edge_llava.evaluation.benchmarks.benchmark import Benchmark
from edge_llava.evaluation.benchmarks.gqa import Gqa
from edge_llava.evaluation.benchmarks.mmbench import MmBench
from edge_llava.evaluation.benchmarks.mme import Mme
from edge_llava.evaluation.benchmarks.pope import Pope
from edge_llava.evaluation.benchmarks.questions import Questions
from edge_llava.evaluation.benchmarks.scienceqa import ScienceQa
from edge_llava.evaluation.benchmarks.seed_bench import SeedBench
from edge_llava.evaluation.benchmarks.vqa import read_textvqa, read_vizwiz, read_vqav2

READERS: Mapping[str, Callable[[Sequence[Path]], Benchmark]] = {
    "scienceqa": ScienceQa.read,
    "pope": Pope.read,
    "textvqa": read_textvqa,
    "vqav2": read_vqav2,
    "vizwiz": read_vizwiz,
    "gqa": Gqa.read,
    "mme": Mme.read,
    "mmbench": MmBench.read,
    "seed": SeedBench.read,
    "questions": Questions.read,
}


def read_benchmark(name: str, paths: Sequence[Path]) -> Benchmark:
    """Reads the user's data of a benchmark.

    Args:
        name: One of READERS.
        paths: Files or a directory; each benchmark says which in its message if they are others.

    Raises:
        DataError: If they cannot be read or are wrong; all faults at once.
        KeyError: If there is no such benchmark.
    """
    return check_keys(READERS[name](paths))


def read_scienceqa(paths: Sequence[Path], form: str, split: str) -> Benchmark:
    """As `read_benchmark`, of a split of ScienceQA, asked in one of `scienceqa_problem.FORMATS`."""
    return check_keys(ScienceQa.read(paths, split=split, form=form))


def check_keys(benchmark: Benchmark) -> Benchmark:
    """Returns a benchmark in which no question occurs twice.

    Raises:
        DataError: If one does.
    """
    doubled = [key for key, n in Counter(item.key for item in benchmark.items).items() if n > 1]
    if doubled:
        shown = ", ".join(doubled[:5]).replace("\n", " ")
        raise DataError(f"the data of {benchmark.name} contain {len(doubled):,} questions more than once: {shown}.")
    return benchmark
