"""Intervals, comparisons and plans, against figures computed by hand or by other programs."""

from __future__ import annotations

import numpy as np
import pytest

from edge_llava.evaluation.comparison import Comparison, graded_difference, questions_needed
from edge_llava.evaluation.difference import Difference, correct_by_holm
from edge_llava.evaluation.intervals import bootstrap_interval, cluster_error, mean_interval
from edge_llava.evaluation.share import Share

POINTS, PICTURES = [1, 0, 1, 1, 0, 0, 1, 1], list("aabbccdd")


def test_clustered_error():
    assert cluster_error(POINTS, PICTURES) == pytest.approx(0.20729, abs=1e-5)
    assert cluster_error(POINTS, list(range(8))) == pytest.approx(0.17116, abs=1e-5)


def test_the_wider_interval_counts():
    low, high = mean_interval(POINTS, PICTURES)
    assert (low, high) == pytest.approx((0.625 - 1.959964 * 0.20729, 1.0), abs=1e-4)
    assert mean_interval([1] * 10, list(range(10))) == pytest.approx(Share(10, 10).interval)  # where the other is 0
    assert mean_interval([], []) == (0, 1)


def test_a_bootstrap_draws_whole_pictures():
    """Two pictures of many equal points: resamples are 0, a half or 1, and nothing between."""
    parts = np.array([[1.0, 1.0]] * 50 + [[0.0, 1.0]] * 50)
    seen = set()

    def mean(sums):
        seen.add(float(sums[0] / sums[1]))
        return float(sums[0] / sums[1])

    assert bootstrap_interval(parts, ["a"] * 50 + ["b"] * 50, mean) == (0, 1)
    assert seen == {0, 0.5, 1}
    assert bootstrap_interval(parts, ["a"] * 100, lambda sums: None) == (None, None)


def test_a_bootstrap_is_about_as_wide_as_the_formula():
    random = np.random.default_rng(2)
    points = (random.random(400) < 0.7).astype(float)
    low, high = bootstrap_interval(
        np.stack([points, np.ones(400)], 1), [str(n) for n in range(400)], lambda sums: float(sums[0] / sums[1])
    )
    assert (low, high) == pytest.approx(Share(int(points.sum()), 400).interval, abs=0.01)


@pytest.mark.parametrize(
    ("lost", "gained", "p"),
    [(13, 5, 0.096252), (30, 20, 0.202639), (6, 0, 0.03125), (1, 0, 1), (5, 5, 1), (0, 0, 1)],
)
def test_mcnemar(lost, gained, p):
    assert Comparison(100, lost, gained).p_value == pytest.approx(p, abs=1e-6)


def test_difference_and_equivalence():
    found = Comparison(2000, lost=30, gained=20)
    assert 100 * found.difference == pytest.approx(-0.5)
    assert 100 * found.error == pytest.approx(0.35338, abs=1e-5)
    assert [100 * edge for edge in found.interval()] == pytest.approx([-1.1926, 0.1926], abs=1e-4)
    assert [100 * edge for edge in found.interval(confidence=90)] == pytest.approx([-1.0813, 0.0813], abs=1e-4)
    assert not found.is_equivalent(0.01)
    assert found.is_equivalent(0.015)
    assert found.describe("F16", "Q4_K_M") == (
        "Q4_K_M answers 20 of 2,000 right that F16 gets wrong, and 30 the other way: 0.5 points lower, 95 % between "
        "1.2 points lower and 0.2 points higher (McNemar's p = 0.203)."
    )


def test_what_was_lost_and_gained_is_counted():
    assert Comparison.of([True, True, False, False], [True, False, True, False]) == Comparison(4, lost=1, gained=1)


def difference(benchmark: str, p_value: float) -> Difference:
    return Difference(benchmark, 10, 10, 0, 0.0, -0.1, 0.1, p_value)


def test_several_benchmarks_are_corrected_by_holm():
    """Against statsmodels' multipletests(method="holm")."""
    found = correct_by_holm([difference(str(n), p) for n, p in enumerate((0.01, 0.04, 0.03, 0.005))])
    assert [each.p_holm for each in found] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert correct_by_holm([difference("a", 0.7), difference("b", 0.8)])[1].p_holm == 1.0


def test_graded_answers_are_compared_by_their_points():
    pictures = [str(n // 2) for n in range(40)]
    found = graded_difference([0.3] * 40, [0.0] * 40, pictures)
    assert (found.value, *found.interval(95)) == pytest.approx((-0.3, -0.3, -0.3))
    assert found.p_value == pytest.approx(2 / 2001)
    random = np.random.default_rng(3)
    a, b = random.random(40), random.random(40)
    found = graded_difference(list(a), list(b), pictures)
    (low, high), narrow = found.interval(95), found.interval(90)
    assert low < narrow[0] < found.value < narrow[1] < high
    assert 0.05 < found.p_value <= 1
    assert graded_difference(list(a), list(a), pictures).p_value == 1


def test_no_discordant_answer_among_few_shows_little():
    assert not Comparison(3, 0, 0).is_equivalent(0.01)
    assert Comparison(400, 0, 0).is_equivalent(0.01)


def test_many_discordant_answers_take_no_time():
    assert 0 < Comparison(100_000, 10_000, 10_200).p_value < 1


@pytest.mark.parametrize(("detect", "discordant", "n"), [(0.01, 0.05, 3923), (0.02, 0.10, 1960), (0.02, 0.08, 1568)])
def test_plans(detect, discordant, n):
    assert questions_needed(detect, discordant) == n


@pytest.mark.parametrize(("detect", "discordant"), [(0, 0.1), (0.2, 0.1), (0.1, 1.1)])
def test_plans_that_make_no_sense(detect, discordant):
    with pytest.raises(ValueError, match="must be above 0"):
        questions_needed(detect, discordant)
