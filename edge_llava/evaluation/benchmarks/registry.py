"""Reads the user's data of a benchmark."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edge_llava.errors import DataError
from edge_llava.evaluation.benchmarks.benchmark import Benchmark
from edge_llava.evaluation.benchmarks.gqa import Gqa
from edge_llava.evaluation.benchmarks.kinds import KINDS
from edge_llava.evaluation.benchmarks.llava_bench import LlavaBench
from edge_llava.evaluation.benchmarks.mm_vet import MmVet
from edge_llava.evaluation.benchmarks.mmbench import MmBench
from edge_llava.evaluation.benchmarks.mme import Mme
from edge_llava.evaluation.benchmarks.pope import Pope
from edge_llava.evaluation.benchmarks.questions import Questions
from edge_llava.evaluation.benchmarks.sampling import leave_out, sample
from edge_llava.evaluation.benchmarks.scienceqa import ScienceQa
from edge_llava.evaluation.benchmarks.seed_bench import SeedBench
from edge_llava.evaluation.benchmarks.source import ReadOptions, Source
from edge_llava.evaluation.benchmarks.vqa import read_textvqa, read_vizwiz, read_vqav2

_Read = Callable[[Sequence[Path], ReadOptions], Benchmark]


def _alike(read: Callable[[Sequence[Path]], Benchmark]) -> _Read:
    """A reader of what is always read alike."""
    return lambda paths, options: read(paths)


_READERS: Mapping[str, _Read] = {
    "scienceqa": lambda paths, options: ScienceQa.read(
        paths, split=options.split or "test", form=options.form or "letter"
    ),
    "llava-bench": lambda paths, options: LlavaBench.read(paths, options.collection),
    "pope": _alike(Pope.read),
    "textvqa": _alike(read_textvqa),
    "vqav2": _alike(read_vqav2),
    "vizwiz": _alike(read_vizwiz),
    "gqa": _alike(Gqa.read),
    "mme": _alike(Mme.read),
    "mmbench": lambda paths, options: MmBench.read(paths, circular=options.circular),
    "mmbench-cn": lambda paths, options: MmBench.read(paths, circular=options.circular, in_chinese=True),
    "seed": _alike(SeedBench.read),
    "mm-vet": _alike(MmVet.read),
    "questions": _alike(Questions.read),
}


def read_benchmark(name: str, paths: Sequence[str | os.PathLike[str]], options: ReadOptions | None = None) -> Benchmark:
    """Reads the user's data of a benchmark.

    Args:
        name: One of KINDS.
        paths: Files or a directory; each benchmark says which in its message if they are others.
        options: How they are read; None: as usual.

    Raises:
        DataError: If they cannot be read or are wrong; all faults at once.
        ValueError: If there is no such benchmark, or it does not have an option.
    """
    if name not in KINDS:
        raise ValueError(f"there is no benchmark {name!r}, only {', '.join(KINDS)}.")
    options = options or ReadOptions()
    foreign = options.given - set(KINDS[name].options)
    if foreign:
        raise ValueError(f"{', '.join(sorted(foreign))} are not for {name}.")
    places = tuple(map(Path, paths))
    benchmark = _READERS[name](places, options)
    _refuse_doubled(benchmark)
    benchmark.source = Source(name, places, options)
    return benchmark


def read_source(source: Source) -> Benchmark:
    """Reads again what a source says.

    Raises:
        DataError: As `read_benchmark`.
    """
    if source.name not in KINDS:
        raise DataError(f"there is no benchmark {source.name!r} in this version.")
    whole = read_benchmark(source.name, source.paths, source.options)
    return leave_out(sample(whole, source.n_sample, source.seed), source.left_out)


def _refuse_doubled(benchmark: Benchmark) -> None:
    doubled = [key for key, n in Counter(item.key for item in benchmark.items).items() if n > 1]
    if doubled:
        shown = ", ".join(doubled[:5]).replace("\n", " ")
        raise DataError(f"the data of {benchmark.name} contain {len(doubled):,} questions more than once: {shown}.")
