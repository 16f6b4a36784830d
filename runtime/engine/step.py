"""What one step of the engine computes: the next token of every answer being decoded, and a part of the prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_llava.runtime.engine.job import Job
from edge_llava.runtime.language.decoder import RowChunk, TokenChunk

TextPart = tuple[Job, TokenChunk]
RowPart = tuple[Job, RowChunk]


@dataclass(frozen=True)
class StepPlan:
    """Three batches. llama.cpp takes tokens and rows separately; and in a batch of many conversations that also holds a
    long part of one, attention would compute every one of its rows with the cells of all.

    Attributes:
        decoding: Next tokens.
        rows: Parts of images.
        texts: Parts of texts.
    """

    decoding: tuple[TextPart, ...]
    rows: tuple[RowPart, ...]
    texts: tuple[TextPart, ...]

    @property
    def n_prompt(self) -> int:
        """Positions of prompts."""
        return sum(chunk.n_tokens for _, chunk in self.rows) + sum(chunk.n_tokens for _, chunk in self.texts)

    @property
    def n_positions(self) -> int:
        """Positions that are computed."""
        return len(self.decoding) + self.n_prompt

    def without(self, job: Job) -> StepPlan:
        """The same for all others."""
        return StepPlan(
            tuple(part for part in self.decoding if part[0] is not job),
            tuple(part for part in self.rows if part[0] is not job),
            tuple(part for part in self.texts if part[0] is not job),
        )


def plan_step(jobs: Sequence[Job], n_prompt: int) -> StepPlan:
    """Divides a step among jobs.

    Args:
        jobs: The running ones, the oldest first. Prompts are computed in this order: the first is there soonest, and
            the last no later than if all took turns.
        n_prompt: Positions of prompts that the step may take, in addition to one token for every answer being decoded.
    """
    decoding: list[TextPart] = []
    rows: list[RowPart] = []
    texts: list[TextPart] = []
    for job in jobs:
        chunk = job.next_chunk(1 if job.is_decoding else n_prompt)
        if isinstance(chunk, TokenChunk) and job.is_decoding:
            decoding.append((job, chunk))
            continue
        if isinstance(chunk, RowChunk):
            rows.append((job, chunk))
        elif chunk is not None:
            texts.append((job, chunk))
        n_prompt -= chunk.n_tokens if chunk is not None else 0
    return StepPlan(tuple(decoding), tuple(rows), tuple(texts))
