"""An answer as the batch engine works on it: what must be computed for it, how far that has come, what it has said."""

from __future__ import annotations

from collections.abc import Sequence

from edge_llava.runtime.answer import Token
from edge_llava.runtime.dialogue.answer_start import NO_START, AnswerStart
from edge_llava.runtime.dialogue.answer_tokens import AnswerTokens
from edge_llava.runtime.engine.answer import Answer
from edge_llava.runtime.kv.sequences import KvSequence
from edge_llava.runtime.language.decoder import Chunk, RowChunk, TokenChunk
from edge_llava.runtime.language.sampler import Sampler
from edge_llava.runtime.runs import ImageRun, Run, count_common, list_positions


class Job:
    """One answer. Everything but `is_cancelled` is the worker thread's.

    Whatever was computed for it can be lost and computed again: `wanted` says all that must be in the KV cache before
    the next token can be drawn, its own tokens so far included.

    Attributes:
        answer: What the client sees of it.
        runs: The conversation up to the answer.
        wanted: What every position stands for.
        tokens: What was drawn.
        text: What was told of it.
        start: What the answer began with before the model wrote: part of the conversation, not of `tokens`.
        sampler: Draws.
        sequence: Its place in the KV cache; None while it waits.
        number: Smaller ones came before; the queue gives it.
        is_cancelled: Whether nobody waits for it any more.
        salt: Only jobs of the same salt share what was computed.
    """

    def __init__(
        self,
        answer: Answer,
        runs: Sequence[Run],
        tokens: AnswerTokens,
        sampler: Sampler,
        start: AnswerStart = NO_START,
        *,
        salt: str = "",
    ) -> None:
        self.answer, self.runs, self.tokens, self.sampler = answer, runs, tokens, sampler
        self.number, self.salt = 0, salt
        self.start = start
        self.wanted = [*list_positions(runs), *start.ids]
        self.text = ""
        self.sequence: KvSequence | None = None
        self.is_cancelled = False
        self._images = {run.identity: run for run in runs if isinstance(run, ImageRun)}
        self._leaders: list[tuple[int, Job]] = []

    @property
    def images(self) -> Sequence[ImageRun]:
        """Its pictures, each once."""
        return tuple(self._images.values())

    @property
    def n_computed(self) -> int:
        """Positions of it in the KV cache."""
        return len(self.sequence.positions) if self.sequence is not None else 0

    @property
    def is_flowing(self) -> bool:
        """Whether one step gives its next token, after the first."""
        return bool(self.tokens.ids) and self.n_computed == len(self.wanted) - 1

    def tell(self, token: Token) -> None:
        """Hands a token to the client.

        Raises: what the client's callback raises.
        """
        self.text += token.text
        self.answer.tell(token, len(self.tokens.ids))

    def missing_images(self, n_known: int) -> list[ImageRun]:
        """Pictures with positions beyond the first `n_known`, whose rows nobody has."""
        beyond = {position[0] for position in self.wanted[n_known:] if isinstance(position, tuple)}
        return [image for image in self.images if image.identity in beyond and image.embedding is None]

    def follow(self, others: Sequence[Job]) -> None:
        """Notes which running jobs, older ones only, compute a beginning that this one needs, too."""
        same = [other for other in others if other.salt == self.salt]
        shared = [(count_common(other.wanted, self.wanted[:-1]), other) for other in same]
        self._leaders = [
            (n_shared, other) for n_shared, other in shared if n_shared > self.n_computed and other.number < self.number
        ]

    def leader(self) -> tuple[int, Job] | None:
        """The running job that computes most of what this one still needs, and how many positions both begin with."""
        leading = [
            (n_shared, other)
            for n_shared, other in self._leaders
            if other.sequence is not None and n_shared > self.n_computed
        ]
        return max(leading, key=lambda pair: (pair[0], pair[1].n_computed), default=None)

    def next_chunk(self, limit: int) -> Chunk | None:
        """What comes next, at most `limit` positions; None where it must wait for a picture or for another job."""
        start = self.n_computed
        if limit <= 0 or self.sequence is None or start >= len(self.wanted) or self.leader() is not None:
            return None
        first = self.wanted[start]
        if isinstance(first, tuple):
            return self._next_rows(self.sequence, first, limit)
        ids: list[int] = []
        for position in self.wanted[start : start + limit]:
            if isinstance(position, tuple):
                break
            ids.append(position)
        return TokenChunk(self.sequence, ids, is_last=start + len(ids) == len(self.wanted))

    def _next_rows(self, sequence: KvSequence, first: tuple[str, int], limit: int) -> RowChunk | None:
        identity, row = first
        image = self._images[identity]
        if image.embedding is None:
            return None
        return RowChunk(sequence, image.rows[row : row + limit], identity, row)
