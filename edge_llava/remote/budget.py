"""What questions to a model may cost."""

from __future__ import annotations

from dataclasses import dataclass

from edge_llava.errors import DataError


@dataclass(frozen=True)
class Estimate:
    """What is still to be asked.

    Attributes:
        n_requests: Their number.
        prompt_tokens, completion_tokens: About how many.
    """

    n_requests: int
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Prices:
    """Of a million tokens, in any currency; None where it is not known."""

    prompt: float | None = None
    completion: float | None = None

    def cost(self, n_prompt: int, n_completion: int) -> float | None:
        """Of tokens; None without prices."""
        if self.prompt is None and self.completion is None:
            return None
        return (n_prompt * (self.prompt or 0.0) + n_completion * (self.completion or 0.0)) / 1e6


@dataclass(frozen=True)
class Budget:
    """The most that a model's replies may cost, those of earlier runs among them; None: there is no limit."""

    prices: Prices = Prices()
    limit: float | None = None

    def check(self, n_prompt: int, n_completion: int) -> None:
        """
        Raises:
            DataError: If the limit is reached.
        """
        cost = self.prices.cost(n_prompt, n_completion)
        if self.limit is not None and cost is not None and cost >= self.limit:
            raise DataError(
                f"{cost:.4f} was spent, and --max-cost is {self.limit:g}. Replies are kept: the same command goes on "
                "with a larger --max-cost."
            )
