"""A figure that was taken several times."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """Median, smallest and largest of some samples, in the samples' unit."""

    median: float
    min: float
    max: float


def summarize(samples: Sequence[float]) -> Spread:
    """The spread of at least one sample."""
    return Spread(statistics.median(samples), min(samples), max(samples))
