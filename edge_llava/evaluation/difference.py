"""Two sets of answers to the same benchmark, question by question, and several such pairs together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import compress
from typing import Any

from edge_llava.errors import DataError
from edge_llava.evaluation.benchmarks.benchmark import Benchmark
from edge_llava.evaluation.benchmarks.scoring import Scores
from edge_llava.evaluation.comparison import Comparison, graded_difference, say_points


@dataclass(frozen=True)
class Difference:
    """B against A.

    Attributes:
        benchmark: Its name.
        n: What counts as one: questions, or several that are right only together.
        n_texts, n_changed: Answers, and those whose texts differ.
        difference: Of the mean points, -1 to 1.
        low, high: Its 95 % interval.
        p_value: McNemar's, exact; of graded answers, by resampled pictures. Two-sided.
        lost, gained: Right in A and wrong in B, and the other way; None of graded answers.
        margin: In points, see `equivalent`; None: nothing was asked about it.
        equivalent: Whether the two are shown to be equally good within the margin.
        p_holm: The p-value where several benchmarks are compared at once; None: one was.
    """

    benchmark: str
    n: int
    n_texts: int
    n_changed: int
    difference: float
    low: float
    high: float
    p_value: float
    lost: int | None = None
    gained: int | None = None
    margin: float | None = None
    equivalent: bool | None = None
    p_holm: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    def describe(self, a: str, b: str) -> list[str]:
        """The result in words, a line each."""
        if self.lost is not None and self.gained is not None:
            counted = Comparison(self.n, self.lost, self.gained)
            share = 100 * (self.lost + self.gained) / self.n
            lines = [counted.describe(a, b), f"{share:.1f} % are right in one of the two only."]
        else:
            lines = [
                f"{b} against {a}: {say_points(self.difference)}, 95 % between {say_points(self.low)} and "
                f"{say_points(self.high)} (pictures resampled, p = {self.p_value:.3g})."
            ]
        lines.append(f"{self.n_changed:,} of {self.n_texts:,} texts differ.")
        if self.margin is not None:
            verdict = "are shown to be" if self.equivalent else "are not shown to be"
            lines.append(f"They {verdict} equally good within {self.margin:g} points (90 % interval).")
        return lines


def compare(
    benchmark: Benchmark, a: Scores, b: Scores, *, margin: float | None = None, common: bool = False
) -> Difference:
    """Compares two scores of the same questions.

    Args:
        benchmark: What was asked.
        a: From `score`, or of a run.
        b: As `a`.
        margin: In points: whether the two are equally good within it.
        common: Compare what both have, where some answers or their ratings are missing.

    Raises:
        DataError: If the questions have no labels, answers are missing, or none are in common.
    """
    keys_a, keys_b = ([each.item.key for each in scores.marked] for scores in (a, b))
    if not a.figures or not b.figures:
        raise DataError("these questions have no right answers, or no judge's reviews, to compare with.")
    n_other = len(set(keys_a) ^ set(keys_b))
    lacks_a, lacks_b = (sum(each.text is None for each in scores.marked) for scores in (a, b))
    if not common and (lacks_a or lacks_b or n_other):
        raise DataError(
            f"A lacks {lacks_a:,} of its answers or their ratings, and B {lacks_b:,}; {n_other:,} questions were asked "
            "in one only. --common compares what both have."
        )
    by_key = {each.item.key: each for each in b.marked}
    pairs = [(first, by_key[first.item.key]) for first in a.marked if first.item.key in by_key]
    kept = [first.text is not None and second.text is not None for first, second in pairs]
    if not any(kept):
        raise DataError("no question was answered in both.")
    marked_a, marked_b = ([pair[n] for pair in compress(pairs, kept)] for n in (0, 1))
    units_a, units_b = benchmark.units(marked_a), benchmark.units(marked_b)
    points_a, points_b = ([each.mark.points for each in units] for units in (units_a, units_b))
    n_changed = sum(x.text != y.text for x, y in zip(marked_a, marked_b, strict=True))
    if set(points_a) | set(points_b) <= {0.0, 1.0}:
        counted = Comparison.of([points == 1 for points in points_a], [points == 1 for points in points_b])
        found = Difference(
            benchmark.name, counted.n, len(marked_a), n_changed, counted.difference, *counted.interval(),
            counted.p_value, counted.lost, counted.gained,
        )  # fmt: skip
        return found if margin is None else _test(found, margin, equivalent=counted.is_equivalent(margin / 100))
    graded = graded_difference(points_a, points_b, [each.item.picture for each in units_a])
    found = Difference(
        benchmark.name, len(units_a), len(marked_a), n_changed, graded.value, *graded.interval(95), graded.p_value
    )
    if margin is None:
        return found
    return _test(found, margin, equivalent=max(map(abs, graded.interval(90))) < margin / 100)


def _test(found: Difference, margin: float, *, equivalent: bool) -> Difference:
    return replace(found, margin=margin, equivalent=equivalent)


def correct_by_holm(differences: Sequence[Difference]) -> list[Difference]:
    """The same with p-values that count how many benchmarks are compared at once.

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    n, corrected, reached = len(differences), dict[int, float](), 0.0
    for rank, index in enumerate(sorted(range(n), key=lambda index: differences[index].p_value)):
        reached = max(reached, min(1.0, (n - rank) * differences[index].p_value))
        corrected[index] = reached
    return [replace(each, p_holm=corrected[index]) for index, each in enumerate(differences)]
