"""How much of the waiting prompts one step may take, so that answers keep arriving while it is taken."""

from __future__ import annotations

_STEP_S = 0.5  # longer between two tokens of an answer, while the prompts of others are computed
# llama.cpp multiplies so many rows at a time, and what is left over one by one, each as slowly as all of them together
_ROUND = 32
_SHARE_OF_NEW = 0.3


class StepSize:
    """Learns how fast this device computes prompts."""

    def __init__(self, n_batch: int) -> None:
        """
        Args:
            n_batch: Positions that are computed at a time.
        """
        self._n_batch = n_batch
        self._position_s = _STEP_S / _ROUND

    def prompt_positions(self, some_decode: bool) -> int:
        """Positions of prompts that the next step may take.

        Args:
            some_decode: Whether answers wait for their next token; otherwise a step is as large as a batch.
        """
        if not some_decode:
            return self._n_batch
        return min(self._n_batch, max(_ROUND, int(_STEP_S / self._position_s) // _ROUND * _ROUND))

    def learn(self, n_positions: int, seconds: float) -> None:
        """Takes a step's time into account; steps of few positions say little and are left out."""
        if n_positions >= _ROUND:
            self._position_s += _SHARE_OF_NEW * (seconds / n_positions - self._position_s)
