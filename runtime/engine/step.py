"""What one step of the engine computes: the next token of every answer being decoded, and a part of the prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_llava.runtime.engine.job import Job
from edge_llava.runtime.language.decoder import RowChunk, TokenChunk

_STEP_S = 0.5  # longer between two tokens of an answer, while the prompts of others are computed
# llama.cpp multiplies so many rows at a time, and what is left over one by one, each as slowly as all of them together
_ROUND = 32
_SHARE_OF_NEW = 0.3


@dataclass(frozen=True)
class StepPlan:
    """Three batches. llama.cpp takes tokens and rows separately; and in a batch of many conversations that also holds a
    long part of one, attention would compute every one of its rows with the cells of all.

    Attributes:
        decoding: Next tokens.
        rows: Parts of images.
        texts: Parts of texts.
    """

    decoding: list[tuple[Job, TokenChunk]]
    rows: list[tuple[Job, RowChunk]]
    texts: list[tuple[Job, TokenChunk]]

    @property
    def n_prompt(self) -> int:
        """Positions of prompts."""
        return sum(chunk.n_tokens for _, chunk in self.rows) + sum(chunk.n_tokens for _, chunk in self.texts)

    @property
    def n_positions(self) -> int:
        """Positions that are computed."""
        return len(self.decoding) + self.n_prompt


def plan_step(jobs: Sequence[Job], n_prompt: int) -> StepPlan:
    """Divides a step among jobs. Without the youngest of them, the others' parts are the same.

    Args:
        jobs: The running ones, the oldest first. Prompts are computed in this order: the first is there soonest, and
            the last no later than if all took turns.
        n_prompt: Positions of prompts that the step may take, in addition to one token for every answer being decoded.
    """
    plan = StepPlan([], [], [])
    for job in jobs:
        if job.is_decoding:
            if job.can_compute():
                plan.decoding.append((job, job.next_token()))
            continue
        chunk = job.next_chunk(n_prompt - plan.n_prompt)
        if isinstance(chunk, RowChunk):
            plan.rows.append((job, chunk))
        elif chunk is not None:
            plan.texts.append((job, chunk))
    return plan


class StepSize:
    """Learns how fast this device computes prompts: a step may take so much of them that answers keep arriving."""

    def __init__(self, n_batch: int) -> None:
        self._n_batch, self._position_s = n_batch, _STEP_S / _ROUND

    def prompt_positions(self, some_decode: bool) -> int:
        """Positions of prompts that the next step may take: a whole batch, unless answers wait for their next token."""
        if not some_decode:
            return self._n_batch
        return min(self._n_batch, max(_ROUND, int(_STEP_S / self._position_s) // _ROUND * _ROUND))

    def learn(self, n_positions: int, seconds: float) -> None:
        """Takes a step's time into account; steps of few positions say little and are left out."""
        if n_positions >= _ROUND:
            self._position_s += _SHARE_OF_NEW * (seconds / n_positions - self._position_s)
