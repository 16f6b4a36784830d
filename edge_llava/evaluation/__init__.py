"""Measures how well a bundle answers: drawn scenes, published benchmarks, and questions of your own.

benchmark = read_benchmark("pope", ["coco_pope_popular.json"])
scores = answer(benchmark, "my-bundle", Path("my-run"), options=AskOptions(images=Path("val2014")))
scores = score(benchmark, read_answers_of(benchmark, Path("theirs.jsonl")))
print(compare(benchmark, scores_of_a, scores_of_b).describe("A", "B"))

Importing this loads no engine; only `answer` needs one.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_llava.evaluation.asking import AskOptions, answer
    from edge_llava.evaluation.benchmarks.answer_files import read_answers_of
    from edge_llava.evaluation.benchmarks.registry import read_benchmark
    from edge_llava.evaluation.benchmarks.sampling import sample
    from edge_llava.evaluation.benchmarks.scoring import Scores, score
    from edge_llava.evaluation.benchmarks.source import ReadOptions
    from edge_llava.evaluation.difference import Difference, compare
    from edge_llava.evaluation.run_record import open_run

_HOMES = {
    "AskOptions": "asking",
    "Difference": "difference",
    "ReadOptions": "benchmarks.source",
    "Scores": "benchmarks.scoring",
    "answer": "asking",
    "compare": "difference",
    "open_run": "run_record",
    "read_answers_of": "benchmarks.answer_files",
    "read_benchmark": "benchmarks.registry",
    "sample": "benchmarks.sampling",
    "score": "benchmarks.scoring",
}

__all__ = [
    "AskOptions", "Difference", "ReadOptions", "Scores", "answer", "compare", "open_run", "read_answers_of",
    "read_benchmark", "sample", "score",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
