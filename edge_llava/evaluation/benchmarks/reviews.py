"""Files of a judge's reviews, as LLaVA-Bench and MM-Vet publish them, and relative scores.

Source: eval_gpt_review_bench.py and summarize_gpt_review.py of LLaVA; mm-vet_evaluator of MM-Vet.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_llava.errors import DataError, list_faults
from edge_llava.evaluation.benchmarks.benchmark import Figure
from edge_llava.evaluation.benchmarks.judged import PREFIX, Review
from edge_llava.evaluation.intervals import bootstrap_interval
from edge_llava.home.json_files import read_json, read_json_lines

HIGHEST_RATING = 10.0
ANSWER_FIRST = "answer"  # what metadata.first says where the answer stood before the reference


def read_ratings(text: str) -> tuple[float, float] | None:
    """The two numbers in the first line that is not empty; None if there are others, or they are not 0 to 10."""
    line = next((line for line in text.split("\n") if line.strip()), "")
    words = line.replace(",", " ").split()
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        return None
    if len(numbers) != 2 or not all(math.isfinite(number) and 0 <= number <= HIGHEST_RATING for number in numbers):
        return None
    return numbers[0], numbers[1]


def read_published(text: str, *, swapped: bool) -> tuple[float, float] | None:
    """The ratings of reference and answer; `swapped`: the answer's comes first."""
    found = read_ratings(text)
    return found if found is None or not swapped else (found[1], found[0])


def read_reviews(path: Path, read: Callable[..., tuple[float, ...] | None] = read_published) -> list[Review]:
    """Reads a file of reviews, whose ratings are read anew from their texts.

    Args:
        path: The file.
        read: read(text, swapped=) -> ratings, as `Judged.read_reply`.

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
        facts = line.get("metadata")
        facts = facts if isinstance(facts, dict) else {}
        ratings = read(content, swapped=facts.get("first") == ANSWER_FIRST)
        judge = ", ".join(str(facts[key]) for key in ("judge", "wording", "temperature") if key in facts)
        found.append(Review(str(id_), category.removeprefix(PREFIX), content, ratings, judge))
    doubled = [id_ for id_, n in Counter(review.question_id for review in found).items() if n > 1]
    faults += [f"question_id {', '.join(doubled[:5])} occurs more than once"] if doubled else []
    if faults or not found:
        raise DataError(list_faults(f"{path} is no file of reviews:", faults[:20] or ["it is empty"]))
    return found


def read_grades(path: Path) -> list[list[Review]]:
    """Reads a file of MM-Vet's evaluator, {id: {"score": [0.5], "content": ["0.5"], ..}}: a list for each grading.

    Raises:
        DataError: If it cannot be read, or is something else; all faults at once.
    """
    data, faults, found = read_json(path), list[str](), dict[str, list[tuple[float, str]]]()
    if not isinstance(data, dict):
        raise DataError(f"{path} does not contain an object of grades by id.")
    for id_, entry in data.items():
        scores, contents = (entry.get(key) if isinstance(entry, dict) else None for key in ("score", "content"))
        if not isinstance(scores, list) or not scores or not all(map(_is_grade, scores)):
            faults.append(f"{id_}: its score is not a list of numbers from 0 to 1")
            continue
        texts = contents if isinstance(contents, list) and len(contents) == len(scores) else scores
        found[str(id_)] = [(float(score), str(text)) for score, text in zip(scores, texts, strict=True)]
    if len({len(grades) for grades in found.values()}) > 1:
        faults.append("some questions were graded more often than others")
    if faults or not found:
        raise DataError(list_faults(f"{path} is no file of grades:", faults[:20] or ["it is empty"]))
    rows = [[Review(id_, "", text, (score,)) for score, text in grades] for id_, grades in found.items()]
    return [list(judging) for judging in zip(*rows, strict=True)]


def _is_grade(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def relative_scores(judgings: Sequence[Sequence[Review]], pictures: Mapping[str, str] | None = None) -> list[Figure]:
    """Relative scores in percent, over all questions first, then by category; below each ten times the two means.

    Args:
        judgings: Reviews of the same answers; scores are means over several judgings, each of which is told, too.
        pictures: Of each question, for the intervals; None: each question is its own.

    Raises:
        DataError: If two judgings are of other questions.
    """
    ids = [sorted(review.question_id for review in reviews) for reviews in judgings]
    if any(each != ids[0] for each in ids):
        raise DataError("the reviews are of different questions; judgings of the same answers can be averaged.")
    categories = list(dict.fromkeys(review.category for reviews in judgings for review in reviews))
    figures = []
    for category in (None, *categories):
        chosen = [[r for r in reviews if category in (None, r.category)] for reviews in judgings]
        pairs = [pair for reviews in chosen if (pair := _means(reviews)) is not None]
        values = [_relative(pair) for pair in pairs]
        known = [value for value in values if value is not None]
        low, high = _interval([review for reviews in chosen for review in reviews], pictures or {})
        n, name = len(chosen[0]), category or "all"
        is_main = category is None
        value = sum(known) / len(known) if known else None
        figures.append(Figure(f"relative score, {name}", value, n, low, high, is_main, "bootstrap"))
        if is_main and len(judgings) > 1:
            figures += [Figure(f"relative score, judging {number}", value, n) for number, value in enumerate(values, 1)]
        if pairs:
            reference, answer = (10 * sum(each) / len(pairs) for each in zip(*pairs, strict=True))
            figures += [Figure(f"10 x answers, {name}", answer, n), Figure(f"10 x references, {name}", reference, n)]
    return figures


def _means(reviews: Sequence[Review]) -> tuple[float, float] | None:
    """Of the references and of the answers, each rounded to three decimals, as published."""
    rated = [review.ratings for review in reviews if review.ratings is not None]
    if not rated:
        return None
    reference, answer = (round(sum(ratings) / len(rated), 3) for ratings in zip(*rated, strict=True))
    return reference, answer


def _relative(means: tuple[float, float]) -> float | None:
    return round(100 * means[1] / means[0], 1) if means[0] else None


def _interval(reviews: Sequence[Review], pictures: Mapping[str, str]) -> tuple[float | None, float | None]:
    rated = [(review.question_id, review.ratings) for review in reviews if review.ratings is not None]
    if not rated:
        return None, None
    parts = np.array([ratings for _, ratings in rated], np.float64)
    return bootstrap_interval(parts, [pictures.get(id_, id_) for id_, _ in rated], _ratio)


def _ratio(sums: NDArray[np.float64]) -> float | None:
    return float(100 * sums[1] / sums[0]) if sums[0] else None
