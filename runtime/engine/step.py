"""What one step of the engine computes: the next token of every answer being decoded, and a part of the prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from edge_llava.runtime.engine.job import Job
from edge_llava.runtime.language.decoder import RowChunk, TokenChunk

# llama.cpp multiplies so many rows at a time, and what is left over one by one, each as slowly as all of them together
_ROUND = 32
_SHARE_OF_NEW = 0.3
# fewer positions than _FEW wait _MOST_STEPS at most
_FEW, _MOST_STEPS = 2 * _ROUND, 8

Chunk = TypeVar("Chunk", TokenChunk, RowChunk)
Parts = Sequence[tuple[Job, Chunk]]
"""What a batch takes of each job."""
Decode = Callable[[Sequence[Chunk]], Sequence[int] | None]
"""Computes a batch; see `Decoder.decode_tokens`."""


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

    def __init__(self, n_batch: int, max_pause_s: float | None) -> None:
        """`n_batch` positions are computed at once; see `EngineOptions.max_pause_s`."""
        self._n_batch, self._max_pause_s = n_batch, max_pause_s
        self._position_s = (max_pause_s or 0.0) / _ROUND
        self._n_waited = 0  # steps that short prompts have waited for others

    def prompt_positions(self, some_decode: bool) -> int:
        """Positions of prompts that the next step may take: a whole batch, unless answers wait for their next token."""
        if not some_decode or self._max_pause_s is None:
            return self._n_batch
        return min(self._n_batch, max(_ROUND, int(self._max_pause_s / self._position_s) // _ROUND * _ROUND))

    def gather(self, plan: StepPlan) -> StepPlan:
        """The plan, or its next tokens alone: where nobody reads along, a few positions of prompts wait for others'.

        Answers of about one length then end together, and the next ones' prompts are computed at once. Else their turns
        would stay apart as they began, with one short prompt at a time.
        """
        waits = (
            self._max_pause_s is None and plan.decoding and 0 < plan.n_prompt < _FEW and self._n_waited < _MOST_STEPS
        )
        self._n_waited = self._n_waited + 1 if waits else 0
        return StepPlan(plan.decoding, [], []) if waits else plan

    def learn(self, n_positions: int, seconds: float) -> None:
        """Takes a step's time into account; steps of few positions say little and are left out."""
        if n_positions >= _ROUND:
            self._position_s += _SHARE_OF_NEW * (seconds / n_positions - self._position_s)
