"""Two sets of answers to the same questions, question by question, and how many questions it takes to see a difference.

Source: McNemar 1947, exact form; two one-sided tests for equivalence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_llava.evaluation.intervals import resample
from edge_llava.evaluation.share import Z_95

_Z_90 = 1.6448536269514722  # for a 90 % interval, which is two one-sided tests at 5 %
_RULE_OF_THREE = 3  # what was never seen in n cases is, with 95 %, rarer than 3 / n
_Z_POWER = 0.8416212335729143  # for a power of 80 %


@dataclass(frozen=True)
class Comparison:
    """What changes from A to B.

    Attributes:
        n: Questions.
        lost: Right in A and wrong in B.
        gained: Wrong in A and right in B.
    """

    n: int
    lost: int
    gained: int

    @classmethod
    def of(cls, a: Sequence[bool], b: Sequence[bool]) -> Comparison:
        """Counts what was right in A and in B, of the same questions."""
        pairs = list(zip(a, b, strict=True))
        lost, gained = (sum(first is was and second is not was for first, second in pairs) for was in (True, False))
        return cls(len(pairs), lost, gained)

    @property
    def difference(self) -> float:
        """B minus A, -1 to 1."""
        return (self.gained - self.lost) / self.n

    @property
    def error(self) -> float:
        """The standard error of the difference."""
        return math.sqrt(self.lost + self.gained - (self.lost - self.gained) ** 2 / self.n) / self.n

    @property
    def p_value(self) -> float:
        """Of McNemar's exact test, two-sided."""
        n, term, ways = self.lost + self.gained, 1, 1  # term: n over k
        for k in range(min(self.lost, self.gained)):
            term = term * (n - k) // (k + 1)
            ways += term
        return min(1.0, 2 * ways / int(2**n))

    def interval(self, *, confidence: int = 95) -> tuple[float, float]:
        """Of the difference, for a confidence of 95 or 90 percent."""
        reach = {95: Z_95, 90: _Z_90}[confidence] * self.error
        return self.difference - reach, self.difference + reach

    def is_equivalent(self, margin: float) -> bool:
        """Whether the difference is shown to be within the margin, 0 to 1; finding none does not show that."""
        if self.lost + self.gained == 0:
            return _RULE_OF_THREE / self.n < margin
        low, high = self.interval(confidence=90)
        return -margin < low and high < margin

    def describe(self, a: str, b: str) -> str:
        """The result in words."""
        low, high = self.interval()
        return (
            f"{b} answers {self.gained:,} of {self.n:,} right that {a} gets wrong, and {self.lost:,} the other way: "
            f"{say_points(self.difference)}, 95 % between {say_points(low)} and {say_points(high)} "
            f"(McNemar's p = {self.p_value:.3g})."
        )


@dataclass(frozen=True)
class GradedDifference:
    """Mean points of B minus those of A.

    Attributes:
        value: -1 to 1.
        resampled: The same in resamples of whole pictures.
    """

    value: float
    resampled: NDArray[np.float64]

    def interval(self, confidence: int) -> tuple[float, float]:
        """For a confidence in percent."""
        low, high = np.percentile(self.resampled, [(100 - confidence) / 2, (100 + confidence) / 2])
        return float(low), float(high)

    @property
    def p_value(self) -> float:
        """Two-sided: twice the share of resamples on the other side of zero; at least 2 of their number."""
        n_least = min(int((self.resampled <= 0).sum()), int((self.resampled >= 0).sum()))
        return min(1.0, 2 * (n_least + 1) / (len(self.resampled) + 1))


def graded_difference(a: Sequence[float], b: Sequence[float], pictures: Sequence[str]) -> GradedDifference:
    """Compares points, 0 to 1, of the same questions about pictures."""
    parts = np.array([(second - first, 1.0) for first, second in zip(a, b, strict=True)], np.float64)
    resampled = resample(parts, pictures, lambda sums: float(sums[0] / sums[1]))
    return GradedDifference(float(parts[:, 0].mean()), resampled)


def questions_needed(difference: float, discordant: float) -> int:
    """How many questions show a difference with a power of 80 % at 5 %.

    Args:
        difference: To be seen, above 0 and at most `discordant`: 0.01 for one point.
        discordant: Share of the questions that one answers right and the other wrong.

    Raises:
        ValueError: If the difference is not above 0, or the share is smaller than it, or above 1.
    """
    if not 0 < difference <= discordant <= 1:
        raise ValueError("the difference must be above 0, and the discordant share between it and 1")
    root = Z_95 * math.sqrt(discordant) + _Z_POWER * math.sqrt(discordant - difference**2)
    return math.ceil(root**2 / difference**2)


def say_points(difference: float) -> str:
    """A difference of shares in words."""
    points = 100 * abs(difference)
    return "no difference" if points < 0.05 else f"{points:.1f} points {'higher' if difference > 0 else 'lower'}"
