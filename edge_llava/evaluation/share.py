"""Share: a number of successes among trials, and its confidence interval."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

Z_95 = 1.959963984540054  # the 97.5 % quantile of the normal distribution, for a 95 % interval


@dataclass(frozen=True)
class Share:
    """A number of successes among trials.

    Attributes:
        n_right: Successes, 0 to n.
        n: Trials; 0 if there were none.
    """

    n_right: int
    n: int

    @property
    def value(self) -> float | None:
        """n_right / n, 0..1; None if there were no trials."""
        return self.n_right / self.n if self.n else None

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval; 0..1 if there were no trials.

        Source: Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
        """
        if not self.n:
            return 0.0, 1.0
        rate, z_squared = self.n_right / self.n, Z_95 * Z_95
        centre = rate + z_squared / (2 * self.n)
        reach = Z_95 * math.sqrt(rate * (1 - rate) / self.n + z_squared / (4 * self.n * self.n))
        scale = 1 + z_squared / self.n
        # for 0 and n the exact bounds are 0 and 1, but the computed ones are off by rounding
        low = 0.0 if self.n_right == 0 else (centre - reach) / scale
        high = 1.0 if self.n_right == self.n else (centre + reach) / scale
        return low, high


def add(shares: Iterable[Share]) -> Share:
    """Combines the trials of several shares."""
    all_shares = list(shares)
    return Share(sum(share.n_right for share in all_shares), sum(share.n for share in all_shares))
