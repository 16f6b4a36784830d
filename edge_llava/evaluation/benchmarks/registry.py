"""The benchmarks by name."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_llava.errors import DataError
from edge_llava.evaluation.benchmarks.benchmark import Benchmark
from edge_llava.evaluation.benchmarks.gqa import Gqa
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

_Paths = Sequence[Path]


@dataclass(frozen=True)
class Kind:
    """A benchmark before its data are read.

    Attributes:
        what: What it is, in a few words.
        n_tokens: Of an answer in published runs, at most.
        n_questions, n_images: Of the published split; 0 where there is none.
        typical_tokens: Of an answer, for estimates.
        read: Reads the user's data.
        options: Those of `ReadOptions` that it has.
    """

    what: str
    n_tokens: int
    n_questions: int
    n_images: int
    typical_tokens: int
    read: Callable[[_Paths, ReadOptions], Benchmark]
    options: tuple[str, ...] = ()


def _alike(read: Callable[[_Paths], Benchmark]) -> Callable[[_Paths, ReadOptions], Benchmark]:
    """A reader of what is always read alike."""
    return lambda paths, options: read(paths)


KINDS: Mapping[str, Kind] = {
    "scienceqa": Kind(
        "ScienceQA: choices about school subjects", 1024, 4241, 2017, 2,
        lambda paths, options: ScienceQa.read(paths, split=options.split or "test", form=options.form or "letter"),
        ("form", "split"),
    ),
    "llava-bench": Kind(
        "LLaVA-Bench: open questions, for a judge", 1024, 90, 30, 150,
        lambda paths, options: LlavaBench.read(paths, options.collection),
        ("collection",),
    ),
    "pope": Kind("POPE: whether something is in the image", 128, 8910, 500, 2, _alike(Pope.read)),
    "textvqa": Kind("TextVQA: questions about text in images", 128, 5000, 3166, 4, _alike(read_textvqa)),
    "vqav2": Kind("VQAv2: questions about photographs", 128, 107_394, 36_807, 3, _alike(read_vqav2)),
    "vizwiz": Kind("VizWiz: questions of blind people", 128, 8000, 8000, 4, _alike(read_vizwiz)),
    "gqa": Kind("GQA: questions about scene graphs", 128, 12_578, 398, 3, _alike(Gqa.read)),
    "mme": Kind("MME: yes or no, twice about each image", 128, 2374, 1187, 2, _alike(Mme.read)),
    "mmbench": Kind(
        "MMBench: choices, in every rotation", 1024, 4377, 1176, 2,
        lambda paths, options: MmBench.read(paths, circular=options.circular),
        ("circular",),
    ),
    "mmbench-cn": Kind(
        "MMBench-CN: MMBench in Chinese", 1024, 4377, 1176, 2,
        lambda paths, options: MmBench.read(paths, circular=options.circular, in_chinese=True),
        ("circular",),
    ),
    "seed": Kind(
        "SEED-Bench: choices about images and frames of videos", 128, 19_242, 19_242, 2, _alike(SeedBench.read)
    ),
    "mm-vet": Kind("MM-Vet: open questions, for a judge", 1024, 218, 200, 150, _alike(MmVet.read)),
    "questions": Kind("Questions of your own, with or without answers", 128, 0, 0, 3, _alike(Questions.read)),
}  # fmt: skip


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
    benchmark = KINDS[name].read(places, options)
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
