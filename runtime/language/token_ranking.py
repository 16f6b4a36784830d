"""How likely a token was among all others: the log-softmax of the model's logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TokenRanking:
    """The probability of a token, and the likeliest tokens at its place.

    Attributes:
        logprob: The natural logarithm of the token's probability.
        top: (id, logprob) of the likeliest tokens, the likeliest first.
    """

    logprob: float
    top: tuple[tuple[int, float], ...]


def rank_token(logits: NDArray[np.float32], id: int, n_top: int) -> TokenRanking:
    """Ranks a token.

    Args:
        logits: float32 (V,).
        id: The token.
        n_top: How many of the likeliest tokens to list.
    """
    shifted = logits.astype(np.float64) - float(logits.max())
    logprobs = shifted - np.log(np.exp(shifted).sum())
    n_top = min(n_top, len(logprobs))
    likeliest = np.argpartition(-logprobs, n_top - 1)[:n_top].tolist() if n_top else []
    likeliest.sort(key=lambda other: (-logprobs[other], other))
    return TokenRanking(float(logprobs[id]), tuple((other, float(logprobs[other])) for other in likeliest))
