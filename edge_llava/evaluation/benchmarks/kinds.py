"""The benchmarks by name, before any of their code or data are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A benchmark.

    Attributes:
        what: What it is, in a few words.
        n_tokens: Of an answer in published runs, at most.
        n_questions, n_images: Of the published split; 0 where there is none.
        typical_tokens: Of an answer, for estimates.
        options: Those of `ReadOptions` that it has.
    """

    what: str
    n_tokens: int
    n_questions: int
    n_images: int
    typical_tokens: int
    options: tuple[str, ...] = ()


KINDS: Mapping[str, Kind] = {
    "scienceqa": Kind("ScienceQA: choices about school subjects", 1024, 4241, 2017, 2, ("form", "split")),
    "llava-bench": Kind("LLaVA-Bench: open questions, for a judge", 1024, 90, 30, 150, ("collection",)),
    "pope": Kind("POPE: whether something is in the image", 128, 8910, 500, 2),
    "textvqa": Kind("TextVQA: questions about text in images", 128, 5000, 3166, 4),
    "vqav2": Kind("VQAv2: questions about photographs", 128, 107_394, 36_807, 3),
    "vizwiz": Kind("VizWiz: questions of blind people", 128, 8000, 8000, 4),
    "gqa": Kind("GQA: questions about scene graphs", 128, 12_578, 398, 3),
    "mme": Kind("MME: yes or no, twice about each image", 128, 2374, 1187, 2),
    "mmbench": Kind("MMBench: choices, in every rotation", 1024, 4377, 1176, 2, ("circular",)),
    "mmbench-cn": Kind("MMBench-CN: MMBench in Chinese", 1024, 4377, 1176, 2, ("circular",)),
    "seed": Kind("SEED-Bench: choices about images and frames of videos", 128, 19_242, 19_242, 2),
    "mm-vet": Kind("MM-Vet: open questions, for a judge", 1024, 218, 200, 150),
    "questions": Kind("Questions of your own, with or without answers", 128, 0, 0, 3),
}
