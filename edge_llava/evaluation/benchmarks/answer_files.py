"""Files of answers to a benchmark, of whatever program: lines, or a file of results of ScienceQA's scripts."""

from __future__ import annotations

from pathlib import Path

from edge_llava.evaluation.benchmarks.answers import join_answers, read_answers
from edge_llava.evaluation.benchmarks.benchmark import Benchmark
from edge_llava.evaluation.benchmarks.scienceqa import read_results


def read_answers_of(benchmark: Benchmark, path: Path, *, reread: bool = False) -> dict[str, str]:
    """Reads answers to a benchmark: texts by `Item.key`, as `score` takes them.

    Args:
        benchmark: What was asked.
        path: Of the file.
        reread: Of ScienceQA's results take the texts and read them anew, in place of what was read of them.

    Raises:
        DataError: If it cannot be read, or does not fit the questions; all faults at once.
        ValueError: If something is to be read anew that is not a file of ScienceQA's results.
    """
    answers = read_results(path, reread=reread) if benchmark.name == "scienceqa" else None
    if answers is None and reread:
        raise ValueError(f"{path} is no file of ScienceQA's results, which alone can be read anew.")
    return join_answers(benchmark, read_answers(path) if answers is None else answers, str(path))
