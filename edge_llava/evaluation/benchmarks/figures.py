"""Figures that several benchmarks have."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from edge_llava.evaluation.benchmarks.benchmark import Figure, Marked
from edge_llava.evaluation.intervals import Statistic, bootstrap_interval, mean_interval


def accuracy(name: str, marked: Sequence[Marked], *, is_main: bool = False) -> Figure:
    """Mean points in percent, with the wider of two intervals; see `mean_interval`."""
    if not marked:
        return Figure(name, None, 0, is_main=is_main)
    points = [each.mark.points for each in marked]
    low, high = mean_interval(points, [each.item.picture for each in marked])
    value, method = 100 * sum(points) / len(points), "wilson or clustered"
    return Figure(name, value, len(points), 100 * low, 100 * high, is_main, method)


def accuracy_by(
    kind: str, marked: Sequence[Marked], figure: Callable[[str, Sequence[Marked]], Figure] = accuracy, before: str = ""
) -> list[Figure]:
    """A figure of each group of a kind, in the order in which the groups first occur.

    Args:
        kind: Of `Item.groups`.
        marked: The questions.
        figure: Made of each group.
        before: Begins the figures' names.
    """
    groups: dict[str, list[Marked]] = defaultdict(list)
    for each in marked:
        if kind in each.item.groups:
            groups[each.item.groups[kind]].append(each)
    return [figure(f"{before}{kind} {name}", group) for name, group in groups.items()]


def mean_points(name: str, marked: Sequence[Marked], *, is_main: bool = False) -> Figure:
    """Mean points in percent, for graded answers, with an interval over resampled pictures."""
    return bootstrapped(name, marked, lambda each: (each.mark.points, 1.0), _percent_of_sums, is_main=is_main)


def _percent_of_sums(sums: NDArray[np.float64]) -> float | None:
    return float(100 * sums[0] / sums[1]) if sums[1] else None


def bootstrapped(
    name: str,
    marked: Sequence[Marked],
    parts: Callable[[Marked], Sequence[float]],
    statistic: Statistic,
    *,
    is_main: bool = False,
) -> Figure:
    """A statistic of sums, with an interval over resampled pictures.

    Args:
        name: Of the figure.
        marked: The questions.
        parts: What a question adds to each of the sums.
        statistic: Of the sums (F,); None where it is not defined.
        is_main: See `Figure`.
    """
    if not marked:
        return Figure(name, None, 0, is_main=is_main)
    values = np.array([parts(each) for each in marked], np.float64)
    low, high = bootstrap_interval(values, [each.item.picture for each in marked], statistic)
    return Figure(name, statistic(values.sum(0)), len(marked), low, high, is_main, "bootstrap")
