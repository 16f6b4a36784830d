"""Two sets of answers to the same questions, question by question, and how many questions it takes to see a difference.

Source: McNemar 1947, exact form; two one-sided tests for equivalence; Holm 1979.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edge_llava.evaluation.share import Z_95

_Z_90 = 1.6448536269514722  # for a 90 % interval, which is two one-sided tests at 5 %
_Z_POWER = 0.8416212335729143  # for a power of 80 %


@dataclass(frozen=True)
class Comparison:
    """What changes from A to B.

    Attributes:
        n: Questions that both answered.
        lost: Right in A and wrong in B.
        gained: Wrong in A and right in B.
        n_changed: Answers whose text differs.
    """

    n: int
    lost: int
    gained: int
    n_changed: int = 0

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
        n, fewer = self.lost + self.gained, min(self.lost, self.gained)
        ways = sum(math.comb(n, k) for k in range(fewer + 1))
        return min(1.0, 2 * ways / int(2**n))

    def interval(self, *, confidence: int = 95) -> tuple[float, float]:
        """Of the difference, for a confidence of 95 or 90 percent."""
        reach = {95: Z_95, 90: _Z_90}[confidence] * self.error
        return self.difference - reach, self.difference + reach

    def is_equivalent(self, margin: float) -> bool:
        """Whether the difference is shown to be within the margin, 0 to 1; finding none does not show that."""
        low, high = self.interval(confidence=90)
        return -margin < low and high < margin

    def describe(self, a: str, b: str) -> str:
        """The result in words."""
        low, high = self.interval()
        return (
            f"{b} answers {self.gained:,} of {self.n:,} right that {a} gets wrong, and {self.lost:,} the other way: "
            f"{_say(self.difference)}, 95 % between {_say(low)} and {_say(high)} (McNemar's p = {self.p_value:.3g})."
        )


def compare(a: Sequence[tuple[bool, str]], b: Sequence[tuple[bool, str]]) -> Comparison:
    """Compares two sequences of (whether it is right, its text) of the same questions."""
    pairs = list(zip(a, b, strict=True))
    return Comparison(
        n=len(pairs),
        lost=sum(first[0] and not second[0] for first, second in pairs),
        gained=sum(second[0] and not first[0] for first, second in pairs),
        n_changed=sum(first[1] != second[1] for first, second in pairs),
    )


def correct_for_many(p_values: Sequence[float]) -> list[float]:
    """Holm's correction of the p-values of several tests, in their order."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


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


def _say(difference: float) -> str:
    points = 100 * abs(difference)
    return "no difference" if points < 0.05 else f"{points:.1f} points {'higher' if difference > 0 else 'lower'}"
