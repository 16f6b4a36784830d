"""How much of the waiting prompts one step may take, so that the answers that flow keep flowing."""

from __future__ import annotations

STEP_S = 0.4
"""Seconds between two tokens of an answer, while the prompts of others are computed."""
_LEAST = 32  # fewer rows at a time leave the matrix products half empty
_SHARE_OF_NEW = 0.3


class StepSize:
    """Learns how fast this device computes prompts."""

    def __init__(self, n_batch: int) -> None:
        """
        Args:
            n_batch: Positions that are computed at a time.
        """
        self._n_batch = n_batch
        self._position_s = 0.0

    def prompt_positions(self, n_flowing: int) -> int:
        """Positions of prompts that the next step may take.

        Args:
            n_flowing: Answers that wait for their next token; with none, a step is as large as a batch.
        """
        n_most = self._n_batch - n_flowing
        if not n_flowing or not self._position_s:
            return n_most if not n_flowing else min(n_most, _LEAST)
        return min(n_most, max(_LEAST, int(STEP_S / self._position_s) // _LEAST * _LEAST))

    def learn(self, n_positions: int, seconds: float) -> None:
        """Takes a step's time into account; steps of few positions say little and are left out."""
        if n_positions < _LEAST:
            return
        position_s = seconds / n_positions
        self._position_s += (_SHARE_OF_NEW if self._position_s else 1.0) * (position_s - self._position_s)
