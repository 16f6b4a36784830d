"""A judge's reviews of answers beside reference answers, as LLaVA-Bench publishes them, and relative scores.

Source: eval_gpt_review_bench.py and summarize_gpt_review.py of LLaVA.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_llava.errors import DataError, list_faults
from edge_llava.evaluation.benchmarks.benchmark import Figure
from edge_llava.evaluation.intervals import bootstrap_interval
from edge_llava.home.json_files import read_json_lines

_MOST = 10.0
_PREFIX = "llava_bench_"


@dataclass(frozen=True)
class Review:
    """One review.

    Attributes:
        question_id: Of the question.
        category: "conv", "detail" or "complex".
        ratings: Of the reference and of the candidate, 0 to 10; None where the text does not state two numbers.
    """

    question_id: str
    category: str
    ratings: tuple[float, float] | None


def read_reviews(path: Path) -> list[Review]:
    """Reads a file of reviews, whose ratings are read anew from their texts.

    Raises:
        DataError: If it cannot be read, or any line is wrong; all faults at once.
    """
    faults: list[str] = []
    found = []
    for number, line in read_json_lines(path, faults):
        id_, category, content = line.get("question_id"), line.get("category"), line.get("content")
        if not isinstance(id_, (str, int)) or not isinstance(category, str) or not isinstance(content, str):
            faults.append(f"line {number} is not a review with question_id, category and content")
            continue
        found.append(Review(str(id_), category.removeprefix(_PREFIX), read_ratings(content)))
    doubled = [id_ for id_, n in Counter(review.question_id for review in found).items() if n > 1]
    faults += [f"question_id {', '.join(doubled[:5])} occurs more than once"] if doubled else []
    if faults or not found:
        raise DataError(list_faults(f"{path} is no file of reviews:", faults[:20] or ["it is empty"]))
    return found


def read_ratings(text: str) -> tuple[float, float] | None:
    """The two numbers in the first line that is not empty; None if there are others, or they are not 0 to 10."""
    line = next((line for line in text.split("\n") if line.strip()), "")
    words = line.replace(",", " ").split()
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        return None
    if len(numbers) != 2 or not all(math.isfinite(number) and 0 <= number <= _MOST for number in numbers):
        return None
    return numbers[0], numbers[1]


def relative_scores(judgings: Sequence[Sequence[Review]]) -> list[Figure]:
    """Relative scores in percent: over all questions first, then by category.

    Args:
        judgings: Reviews of the same answers; scores are means over several judgings, and their range is told, too.

    Raises:
        DataError: If two judgings are of other questions.
    """
    ids = [sorted(review.question_id for review in reviews) for reviews in judgings]
    if any(each != ids[0] for each in ids):
        raise DataError("the reviews are of different questions; judgings of the same answers can be averaged.")
    categories = list(dict.fromkeys(review.category for reviews in judgings for review in reviews))
    figures = []
    for category in (None, *categories):
        values = [_relative([r for r in reviews if category in (None, r.category)]) for reviews in judgings]
        known = [value for value in values if value is not None]
        low, high = _interval([r for reviews in judgings for r in reviews if category in (None, r.category)])
        n = sum(category in (None, review.category) for review in judgings[0])
        mean = sum(known) / len(known) if known else None
        figures.append(Figure(f"relative score, {category or 'all'}", mean, n, low, high, is_main=category is None))
        if category is None and len(judgings) > 1:
            figures += [Figure(f"relative score, judging {number}", value, n) for number, value in enumerate(values, 1)]
    return figures


def _relative(reviews: Sequence[Review]) -> float | None:
    """100 x mean of the candidate / mean of the reference, each rounded to three decimals, as published."""
    rated = [review.ratings for review in reviews if review.ratings is not None]
    if not rated:
        return None
    reference, candidate = (round(sum(ratings) / len(rated), 3) for ratings in zip(*rated, strict=True))
    return round(100 * candidate / reference, 1) if reference else None


def _interval(reviews: Sequence[Review]) -> tuple[float | None, float | None]:
    rated = [(review.question_id, review.ratings) for review in reviews if review.ratings is not None]
    if not rated:
        return None, None
    parts = np.array([ratings for _, ratings in rated], np.float64)
    return bootstrap_interval(parts, [id_ for id_, _ in rated], _ratio)


def _ratio(sums: NDArray[np.float64]) -> float | None:
    return float(100 * sums[1] / sums[0]) if sums[0] else None
