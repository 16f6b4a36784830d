"""An answer as the engine works on it: what must be computed for it, and how far that has come."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from edge_llava.runtime.engine.answer import Answer
from edge_llava.runtime.kv.sequence import KvSequence
from edge_llava.runtime.language.decoder import Chunk, RowChunk, TokenChunk
from edge_llava.runtime.language.sampler import Sampler
from edge_llava.runtime.lifetime.cancel import StopFlag
from edge_llava.runtime.request import Request
from edge_llava.runtime.runs import ImageRun, Position, count_common, list_positions


@dataclass(frozen=True)
class DiskRead:
    """A prefix on its way from disk.

    Attributes:
        key: Its entry.
        n_positions: How many positions it has.
        state: What was read; None if it is gone or damaged.
        started_at: When it began, of `time.perf_counter`.
        cancel: Set it to stop.
    """

    key: str
    n_positions: int
    state: Future[bytearray | None]
    started_at: float
    cancel: StopFlag


_WORTH_WAITING = 16  # positions; fewer are computed along with the others of a batch, for next to nothing
_QUESTION = -1  # stands where a question will continue what is prepared for it; it is never computed


class Job:
    """One answer, or what is prepared for one. Everything but `is_cancelled` is the engine thread's.

    Whatever was computed for it can be lost and computed again: `wanted` lists all that must be in the KV cache before
    the next token can be sampled, its own tokens so far included.

    Attributes:
        request: What was asked.
        answer: What the client sees of it.
        wanted: What every position stands for.
        images: By the identity of their rows, each once.
        sampler: Chooses its tokens.
        sequence: Its place in the KV cache; None while it waits.
        reading: The beginning of it that is being read from disk; None: nothing is.
        number: Smaller ones came before; the queue assigns it.
        is_paused: Whether nothing of it is computed until its images have come.
        is_cancelled: Whether nothing waits for it any more.
        is_preparation: As of the request.
    """

    def __init__(self, request: Request, answer: Answer, sampler: Sampler) -> None:
        self.request, self.answer, self.sampler = request, answer, sampler
        self.tokens = answer.tokens
        self.number = 0
        self.wanted = [*list_positions(request.runs), *request.start.ids]
        if request.is_preparation:
            self.wanted.append(_QUESTION)
        self.sequence: KvSequence | None = None
        self.reading: DiskRead | None = None
        self.is_paused = self.is_cancelled = False
        self.is_preparation = request.is_preparation
        self.images = {run.identity: run for run in request.runs if isinstance(run, ImageRun)}
        self._sources: list[tuple[int, Job]] = []

    @property
    def rank(self) -> tuple[bool, int]:
        """Smaller ones are computed first: answers, then preparations, each in their order."""
        return self.is_preparation, self.number

    @property
    def is_prepared(self) -> bool:
        """Whether it is a preparation, and complete."""
        return self.is_preparation and self.n_computed >= self._n_to_compute

    @property
    def shareable(self) -> list[Position]:
        """The beginning of `wanted` that others may have computed, and one position more."""
        n_most = self.request.n_shareable
        return self.wanted if n_most is None else self.wanted[: n_most + 1]

    @property
    def _n_to_compute(self) -> int:
        return len(self.wanted) - int(self.is_preparation)

    @property
    def n_computed(self) -> int:
        """Positions of it in the KV cache."""
        return len(self.sequence.positions) if self.sequence is not None else 0

    @property
    def n_coming(self) -> int:
        """Positions of it that are in the KV cache, or on their way there from an older job or from disk."""
        n_shared, _ = self.prefix_source() or (0, None)
        return max(self.n_computed, n_shared, self.reading.n_positions if self.reading is not None else 0)

    @property
    def is_decoding(self) -> bool:
        """Whether one step gives its next token, after the first."""
        return bool(self.tokens.ids) and self.n_computed == len(self.wanted) - 1

    def missing_images(self, n_known: int) -> list[ImageRun]:
        """Images with positions beyond the first `n_known`, whose rows were not computed."""
        if not self.images or n_known >= len(self.wanted) - 1:
            return []
        beyond = {position[0] for position in self.wanted[n_known:] if isinstance(position, tuple)}
        return [image for image in self.images.values() if image.identity in beyond and image.embedding is None]

    def encoded_images(self, other: Job) -> list[ImageRun]:
        """Images of another job that are encoded for this one, or were."""
        own = {
            identity
            for identity, image in self.images.items()
            if image.embedding is not None or image.encoding is not None
        }
        return [image for identity, image in other.images.items() if identity in own and image.embedding is None]

    def is_in_the_way(self, other: Job) -> bool:
        """Whether another job, which is being computed, is a preparation, and not of this one."""
        if not other.is_preparation:
            return False
        prepared = other.wanted[:-1]
        return self.request.salt != other.request.salt or self.wanted[: len(prepared)] != prepared

    def find_sources(self, others: Sequence[Job]) -> None:
        """Notes which running jobs, older ones only, compute a long beginning that this one needs, too."""
        older = [other for other in others if other.number < self.number and other.request.salt == self.request.salt]
        shared = [(count_common(other.wanted, self.shareable[:-1]), other) for other in older]
        self._sources = [source for source in shared if source[0] >= self.n_computed + _WORTH_WAITING]

    def prefix_source(self) -> tuple[int, Job] | None:
        """The running job that computes most of what this one still needs, and how many positions both begin with."""
        if not self._sources:
            return None
        n_computed = self.n_computed
        found = [source for source in self._sources if source[0] > n_computed and source[1].sequence is not None]
        return max(found, key=lambda source: (source[0], source[1].n_computed), default=None)

    def can_compute(self) -> bool:
        """Whether something of it can be computed: it need not wait for an image, a job, the disk, or its reader."""
        start = self.n_computed
        if self.sequence is None or start >= self._n_to_compute or self.reading is not None or self.is_paused:
            return False
        if self.prefix_source() is not None or (self.tokens.ids and not self.answer.check_credit()):
            return False
        first = self.wanted[start]
        return isinstance(first, int) or self.images[first[0]].embedding is not None

    def next_token(self) -> TokenChunk:
        """The token that was sampled last, of a job that is decoding and has a place."""
        assert self.sequence is not None
        return TokenChunk(self.sequence, (self.wanted[-1],), is_last=True)  # type: ignore[arg-type]

    def next_chunk(self, limit: int) -> Chunk | None:
        """What comes next, at most `limit` positions; None if nothing can be computed."""
        if limit <= 0 or self.sequence is None or not self.can_compute():
            return None
        start = self.n_computed
        first = self.wanted[start]
        if isinstance(first, tuple):
            identity, row = first
            return RowChunk(self.sequence, self.images[identity].rows[row : row + limit], identity, row)
        ids: list[int] = []
        for position in self.wanted[start : min(start + limit, self._n_to_compute)]:
            if isinstance(position, tuple):
                break
            ids.append(position)
        return TokenChunk(self.sequence, ids, is_last=start + len(ids) == len(self.wanted))
