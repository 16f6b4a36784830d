"""Scores answers to a benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from edge_llava.evaluation.benchmarks.benchmark import Benchmark, Figure, Mark, Marked

_MISSING = Mark(0.0, "")


@dataclass(frozen=True)
class Scores:
    """What answers are worth.

    Attributes:
        benchmark: Its name.
        variant: What the figures depend on besides.
        n: Questions.
        n_missing: Questions without an answer, which count as wrong.
        n_unreadable: Answers that name none of the possible ones; they count as the benchmark's own script counts them.
        figures: The one that tables show comes first. Without labels there are none, and nothing is right or wrong.
        marked: Every question.
        n_cut_off: Answers that reached the limit of tokens; they count as they are.
        n_unjudged: Answers that a judge has yet to review.
        n_unrated: Reviews in which no rating can be read.
    """

    benchmark: str
    variant: str
    n: int
    n_missing: int
    n_unreadable: int
    figures: tuple[Figure, ...]
    marked: tuple[Marked, ...]
    n_cut_off: int = 0
    n_unjudged: int = 0
    n_unrated: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Everything but the single questions, as JSON values."""
        names = [field.name for field in fields(self) if field.name not in ("marked", "figures")]
        figures = [asdict(figure) for figure in self.figures]
        return {name: getattr(self, name) for name in names} | {"figures": figures}

    def wrong(self) -> list[dict[str, Any]]:
        """Every question that was not answered right, with what was read of the answer, as JSON values."""
        return [
            {
                "question_id": each.item.question_id,
                "image": each.item.image,
                "prompt": each.item.text,
                "text": each.text,
                "read": each.mark.reading,
                "points": each.mark.points,
                "label": each.item.label,
            }
            for each in self.marked
            if each.mark.points < 1
        ]


def score(benchmark: Benchmark, answers: Mapping[str, str]) -> Scores:
    """Scores answers; those that are missing count as wrong.

    Args:
        benchmark: Questions and labels.
        answers: Texts by `Item.key`, as `join_answers` gives them.
    """
    marked = []
    for item in benchmark.items:
        text = answers.get(item.key)
        marked.append(Marked(item, _MISSING if text is None else benchmark.mark(item, text), text))
    return Scores(
        benchmark=benchmark.name,
        variant=benchmark.variant,
        n=len(marked),
        n_missing=sum(each.text is None for each in marked),
        n_unreadable=sum(each.mark.is_unreadable for each in marked),
        figures=tuple(benchmark.figures(marked)),
        marked=tuple(marked),
    )
