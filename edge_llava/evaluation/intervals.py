"""Intervals of scores whose questions share pictures, and are therefore not independent."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from edge_llava.evaluation.share import Z_95, Share

_RESAMPLES = 2000
Statistic = Callable[[NDArray[np.float64]], float | None]


def mean_interval(points: Sequence[float], pictures: Sequence[str]) -> tuple[float, float]:
    """The 95 % interval of a mean of points 0..1: the wider of Wilson's and the one that clusters by picture.

    Source: cluster-robust standard error, Miller, "Adding error bars to evals", 2024.
    """
    n = len(points)
    if n == 0:
        return 0.0, 1.0
    mean, error = sum(points) / n, cluster_error(points, pictures)
    clustered = max(0.0, mean - Z_95 * error), min(1.0, mean + Z_95 * error)
    # Wilson's for counts; a graded score lies between those of the counts beside it
    wilson = Share(round(sum(points)), n).interval
    return max(wilson, clustered, key=lambda interval: interval[1] - interval[0])


def cluster_error(points: Sequence[float], pictures: Sequence[str]) -> float:
    """The standard error of a mean, where points of one picture may go together."""
    n = len(points)
    mean = sum(points) / n
    sums: dict[str, float] = defaultdict(float)
    for value, picture in zip(points, pictures, strict=True):
        sums[picture] += value - mean
    return math.sqrt(sum(total * total for total in sums.values())) / n


def bootstrap_interval(
    parts: NDArray[np.float64], pictures: Sequence[str], statistic: Statistic, *, seed: int = 0
) -> tuple[float | None, float | None]:
    """The 95 % interval of a statistic of sums: percentiles over resamples of whole pictures, see `resample`."""
    values = resample(parts, pictures, statistic, seed=seed)
    if not len(values):
        return None, None
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def resample(
    parts: NDArray[np.float64], pictures: Sequence[str], statistic: Statistic, *, seed: int = 0
) -> NDArray[np.float64]:
    """A statistic of sums in 2,000 resamples of whole pictures; fewer where it is not defined in some.

    Args:
        parts: (n, F): what each question adds to each of the F sums.
        pictures: Of each question.
        statistic: Of the sums (F,); None where it is not defined.
        seed: Of the resamples.
    """
    names = {picture: index for index, picture in enumerate(dict.fromkeys(pictures))}
    if not names:
        return np.zeros(0)
    by_picture = np.zeros((len(names), parts.shape[1]))
    np.add.at(by_picture, [names[picture] for picture in pictures], parts)
    random, values = np.random.default_rng(seed), []
    for _ in range(_RESAMPLES):
        times = np.bincount(random.integers(0, len(names), len(names)), minlength=len(names))
        value = statistic(times @ by_picture)
        if value is not None:
            values.append(value)
    return np.array(values, np.float64)
