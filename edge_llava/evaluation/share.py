"""Share: so many right of so many, and how far chance alone may have moved that."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

_Z = 1.959963984540054  # 97.5 % of a normal distribution lie below: the interval holds 95 %


@dataclass(frozen=True)
class Share:
    """A count of successes.

    Attributes:
        n_right: Successes, 0 to n.
        n: Trials; 0 where nothing was tried.
    """

    n_right: int
    n: int

    @property
    def value(self) -> float | None:
        """n_right / n, 0..1; None where nothing was tried."""
        return self.n_right / self.n if self.n else None

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval, 0..1; all of it where nothing was tried.

        Source: Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
        """
        if not self.n:
            return 0.0, 1.0
        rate, z_squared = self.n_right / self.n, _Z * _Z
        centre = rate + z_squared / (2 * self.n)
        reach = _Z * math.sqrt(rate * (1 - rate) / self.n + z_squared / (4 * self.n * self.n))
        scale = 1 + z_squared / self.n
        # at none and all right the formula is exact, its float result is off by a rounding
        low = 0.0 if self.n_right == 0 else (centre - reach) / scale
        high = 1.0 if self.n_right == self.n else (centre + reach) / scale
        return low, high


def add(shares: Iterable[Share]) -> Share:
    """All trials of several shares as one."""
    all_shares = list(shares)
    return Share(sum(share.n_right for share in all_shares), sum(share.n for share in all_shares))
