"""A figure that was measured several times."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """The median, smallest and largest of several samples, in their unit."""

    median: float
    min: float
    max: float


def summarize(samples: Sequence[float]) -> Spread:
    """Computes the spread of one or more samples."""
    return Spread(statistics.median(samples), min(samples), max(samples))
