"""What one step of the batch engine computes: the next token of every answer that flows, and a part of the prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_llava.runtime.batch_decoder import RowChunk, TokenChunk
from edge_llava.runtime.job import Job


@dataclass(frozen=True)
class StepPlan:
    """Two batches, since llama.cpp takes tokens and rows apart: rows first, so that what follows them can come along.

    Attributes:
        rows: Parts of pictures, each for its job.
        tokens: Next tokens, and parts of texts.
    """

    rows: tuple[tuple[Job, RowChunk], ...]
    tokens: tuple[tuple[Job, TokenChunk], ...]

    @property
    def jobs(self) -> list[Job]:
        """Whose answers it is for."""
        return [job for job, _ in (*self.rows, *self.tokens)]

    @property
    def n_tokens(self) -> int:
        """Positions that are computed."""
        return sum(chunk.n_tokens for _, chunk in (*self.rows, *self.tokens))

    def without(self, job: Job) -> StepPlan:
        """The same for all others."""
        return StepPlan(
            tuple(part for part in self.rows if part[0] is not job),
            tuple(part for part in self.tokens if part[0] is not job),
        )


def plan_step(jobs: Sequence[Job], n_prompt: int) -> StepPlan:
    """Divides a step among jobs.

    Args:
        jobs: The running ones, the oldest first. Prompts are computed in this order: the first is there soonest, and
            the last no later than if all took turns.
        n_prompt: Positions of prompts that the step may take, beside one token for every answer that flows.
    """
    flowing = [(job, job.next_chunk(1)) for job in jobs if job.is_flowing]
    parts = list(flowing)
    for job in jobs:
        if n_prompt <= 0:
            break
        if not job.is_flowing and (chunk := job.next_chunk(n_prompt)) is not None:
            parts.append((job, chunk))
            n_prompt -= chunk.n_tokens
    return StepPlan(
        tuple((job, chunk) for job, chunk in parts if isinstance(chunk, RowChunk)),
        tuple((job, chunk) for job, chunk in parts if isinstance(chunk, TokenChunk)),
    )
