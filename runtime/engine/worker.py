"""The thread that computes: every step gives each running answer its next token, and takes prompts a part further."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from edge_llava.errors import BackendError
from edge_llava.runtime.answer import FinishReason, Token
from edge_llava.runtime.engine.image_queue import ImageQueue
from edge_llava.runtime.engine.job import Job
from edge_llava.runtime.engine.metrics import EngineMetrics
from edge_llava.runtime.engine.prefix_reader import PrefixReader
from edge_llava.runtime.engine.queue import JobQueue
from edge_llava.runtime.engine.step import RowPart, StepPlan, TextPart, plan_step
from edge_llava.runtime.engine.step_size import StepSize
from edge_llava.runtime.kv.sequences import KvSequence, NoCells
from edge_llava.runtime.language.decoder import Decoder
from edge_llava.runtime.lifetime.cancel import Cancelled
from edge_llava.runtime.lifetime.caught import Caught

_log = logging.getLogger("edge_llava.engine")
_Part = TypeVar("_Part", TextPart, RowPart)
_Result = TypeVar("_Result")


class Worker:
    """Owns the running jobs. `run` is the engine thread's; nothing else may use decoder and images at the same time.

    Attributes:
        running: Jobs that have a place, the oldest first.
        forgotten: Owners that are gone, see `KvSequences.forget`; any thread may append one.
    """

    def __init__(
        self,
        decoder: Decoder,
        queue: JobQueue,
        images: ImageQueue,
        prefixes: PrefixReader,
        metrics: EngineMetrics,
    ) -> None:
        """`metrics` counts what is done; the others are what it works with."""
        self.running: list[Job] = []
        self.forgotten: deque[int] = deque()
        self._decoder, self._queue, self._images = decoder, queue, images
        self._prefixes, self._done = prefixes, metrics
        self._size = StepSize(decoder.n_batch)
        self._n_looked_ahead = 0  # the images of jobs with smaller numbers were requested while they waited
        self._is_full = False  # a job was preempted: none gets a place before another is over
        self._is_tower_opening, self._n_spared = False, 0

    def run(self) -> None:
        """Works until the queue is closed; every job is over then, also where a fault ends the work."""
        with Caught() as caught:
            while self._queue.wait(self._has_work, self._flush):
                self._step()
                self._decode_on()
        self._queue.close()
        reason: FinishReason = "error" if caught.error else "cancelled"
        for job in self._queue.take_all():
            with Caught() as again:
                self._end(job, reason, caught.error)
            caught.error = caught.error or again.error
        if caught.error is not None:  # a fault of this file or below it: no client is left waiting, and it is reported
            raise caught.error

    def _has_work(self) -> bool:
        if any(job.is_cancelled or self._can_continue(job) for job in self.running):
            return True
        # after the running ones were looked at, which finds out that one is held
        return len(self._queue) > 0 and (self._has_place or (not self._is_full and self._find_held() is not None))

    def _flush(self) -> None:
        """Readers get what was kept back, before something else takes longer than that."""
        for job in self.running:
            job.answer.flush()

    def _can_continue(self, job: Job) -> bool:
        if job.reading is not None:
            return job.reading.state.done()
        if job.can_compute():
            return True
        return job.prefix_source() is None and any(map(self._images.is_ready, job.missing_images(job.n_computed)))

    @property
    def _has_place(self) -> bool:
        return len(self.running) < self._done.n_parallel and not self._is_full

    def _find_held(self) -> Job | None:
        """A running job whose reader does not continue; others may have its place."""
        return next((job for job in self.running if job.answer.is_held and job.is_decoding), None)

    def _step(self) -> None:
        for job in [*self._queue.take_left(), *(job for job in self.running if job.is_cancelled)]:
            self._end(job, "cancelled")
        while self.forgotten:
            self._decoder.sequences.forget(self.forgotten.popleft())
        if len(self._queue) > 0:
            self._fill_places()
        if self.running:
            self._decoder.sequences.tidy()
        if len(self._queue) > 0:
            self._look_ahead()
        self._is_tower_opening = False
        for job in tuple(self.running):
            if not job.is_decoding:
                self._prepare(job)
        self._spare_threads(int(self._is_tower_opening))
        n_prompt = self._size.prompt_positions(any(job.is_decoding for job in self.running))
        plan = self._make_room(plan_step(self.running, n_prompt))
        if plan.n_positions:
            self._compute(plan)

    def _decode_on(self) -> None:
        """Takes steps of next tokens alone while nothing else happens: the rest of a step takes time, too."""
        while self.running and not self._queue.has_changed and not self.forgotten:
            is_steady = all(job.is_decoding and job.can_compute() for job in self.running)
            if not is_steady or not self._decoder.sequences.has_room(len(self.running)):
                return
            started = time.perf_counter()
            self._compute_tokens([(job, job.next_token()) for job in self.running])
            self._note_step(started)

    def _note_step(self, started: float) -> None:
        self._done.steps_total += 1
        self._done.decode_seconds_total += time.perf_counter() - started

    def _fill_places(self) -> None:
        while not self._has_place and not self._is_full and (held := self._find_held()) is not None:
            self._leave_place(held)
            self._queue.hold(held)
        while self._has_place and (job := self._queue.take()) is not None:
            job.sequence = self._decoder.sequences.claim(job.wanted, job.request.salt, job.request.owner)
            job.answer.note_place(job.n_computed)
            job.find_sources(self.running)
            self.running.append(job)
            self.running.sort(key=lambda job: job.number)
            self._prefixes.start(job)

    def _look_ahead(self) -> None:
        """Requests the images of jobs that wait for a place, so that tower and language model both work."""
        for job in self._queue.waiting():
            if job.number >= self._n_looked_ahead:
                self._n_looked_ahead = job.number + 1
                job.find_sources(self.running)
                n_shared, _ = job.prefix_source() or (0, None)
                n_known = max(n_shared, self._decoder.sequences.count_known(job.wanted, job.request.salt))
                for image in job.missing_images(max(n_known, self._prefixes.count(job, n_known))):
                    self._images.request(image)

    def _prepare(self, job: Job) -> None:
        """Gives a running job what others have computed, what came from disk, and the image rows that have come."""
        while job.sequence is not None and (found := job.prefix_source()) is not None:
            n_shared, source = found
            n_before = job.n_computed
            if source.sequence is not None:
                self._decoder.sequences.share(source.sequence, job.sequence, n_shared)
            job.answer.note_shared(job.n_computed - n_before)
            if job.n_computed < n_shared:
                break
        with Caught() as caught:
            self._prefixes.finish(job)
            if job.prefix_source() is None:
                self._fetch_images(job)
        if caught.error is not None:
            self._end(job, "error", caught.error)

    def _fetch_images(self, job: Job) -> None:
        missing = job.missing_images(self._prefixes.count_coming(job))
        for image in missing:
            self._images.request(image)
            rows = self._images.collect(image)
            if rows is not None:
                job.answer.note_image(rows)
        is_waiting = any(image.embedding is None for image in missing)
        # both would compute on the same cores, each more slowly; while the tower is opened, it takes one of them
        job.is_paused = is_waiting and self._images.holds_cores
        self._is_tower_opening |= is_waiting and self._images.is_opening

    def _spare_threads(self, n_spared: int) -> None:
        if n_spared != self._n_spared:
            self._n_spared = n_spared
            self._decoder.spare_threads(n_spared)

    def _make_room(self, plan: StepPlan) -> StepPlan:
        """Moves idle conversations, or else the youngest running one, out of the KV cache until the step fits."""
        while not self._decoder.sequences.make_room(plan.n_positions):
            plan = plan.without(self._preempt())
        return plan

    def _preempt(self) -> Job:
        """Takes the youngest job's place from it; it gets another when one is over."""
        job = self.running[-1]
        if len(self.running) == 1:
            self._end(job, "error", BackendError("llama.cpp has no room left in its KV cache for a single answer."))
            return job
        self._done.preempted_total += 1
        self._is_full = True
        self._leave_place(job)
        self._queue.put_back(job)
        return job

    def _compute(self, plan: StepPlan) -> None:
        started = time.perf_counter()
        self._compute_tokens(plan.decoding)
        if plan.rows or plan.texts:
            self._flush()
            between = time.perf_counter()
            with self._prefilling(plan.rows) as rows:
                if rows:
                    self._try(lambda: self._decoder.decode_rows([chunk for _, chunk in rows]), rows)
            with self._prefilling(plan.texts) as texts:
                ends = self._decode(texts)
            self._sample_all(texts, ends)
            self._size.learn(plan.n_prompt, time.perf_counter() - between)
        self._note_step(started)

    @contextmanager
    def _prefilling(self, parts: Sequence[_Part]) -> Iterator[Sequence[_Part]]:
        """While inside, these are computed: those of them that were not preempted. It stops when all were cancelled.

        Not for next tokens: they take so little time that a cancelled answer can wait for the end of it.
        """
        parts = [(job, chunk) for job, chunk in parts if job.sequence is chunk.sequence]
        if not parts:
            yield parts
            return
        before = [job.n_computed for job, _ in parts]
        started = time.perf_counter()
        self._queue.start_computing([job for job, _ in parts])
        try:
            yield parts
        finally:
            self._queue.stop_computing()
            for (job, _), n_before in zip(parts, before, strict=True):
                job.answer.note_prefill(time.perf_counter() - started, max(0, job.n_computed - n_before))

    def _compute_tokens(self, parts: Sequence[TextPart]) -> None:
        """Computes the tokens of those that were not preempted, all at once, and samples the next ones."""
        parts = [(job, chunk) for job, chunk in parts if job.sequence is chunk.sequence]
        self._sample_all(parts, self._decode(parts))

    def _decode(self, parts: Sequence[TextPart]) -> Sequence[int]:
        """Where in the batch each part ends; empty if it failed."""
        if not parts:
            return ()
        return self._try(lambda: self._decoder.decode_tokens([chunk for _, chunk in parts]), parts) or ()

    def _sample_all(self, parts: Sequence[TextPart], ends: Sequence[int]) -> None:
        for (job, chunk), end in zip(parts, ends, strict=False):
            if chunk.is_last:
                self._sample(job, end)

    def _try(self, compute: Callable[[], _Result], parts: Sequence[_Part]) -> _Result | None:
        """What a computation returns; None if it failed, which ends the answers whose fault it is."""
        try:
            return compute()
        except NoCells:  # llama.cpp has less room than was counted: the next step has one conversation less
            self._preempt()
        except Cancelled:  # by all of them, or by closing: the next step ends them
            return None
        except BackendError as error:
            for job, _ in parts:
                self._end(job, "error", error)
        return None

    def _sample(self, job: Job, index: int) -> None:
        if not job.tokens.ids:
            self._done.prompt_tokens_total += job.answer.n_prompt_tokens
            self._done.cached_tokens_total += job.answer.n_cached_tokens or 0
        try:
            id = job.sampler.sample(self._decoder.context, index)
        except BackendError as error:  # its grammar's
            self._end(job, "error", error)
            return
        ranking = job.sampler.rank(self._decoder.context, id, index)
        token = job.tokens.take(id, is_full=job.n_computed >= self._decoder.n_ctx, ranking=ranking)
        self._done.tokens_total += 1
        if token.finish_reason is not None:
            self._end(job, token.finish_reason, last=token)
            return
        job.wanted.append(id)
        with Caught() as caught:
            job.answer.emit(token)
        if caught.error is not None:
            self._end(job, "error", caught.error)

    def _end(
        self, job: Job, reason: FinishReason, error: BaseException | None = None, *, last: Token | None = None
    ) -> None:
        """Frees everything a job has, then hands its last token over; this also if freeing fails."""
        sequence = job.sequence
        try:
            self._leave_place(job)
            self._is_full = False
            job.sampler.close()
            self._prefixes.cancel(job)
            for image in job.images:
                self._images.cancel(image)
        finally:
            self._emit_end(job, reason, error, last, sequence)

    def _emit_end(
        self,
        job: Job,
        reason: FinishReason,
        error: BaseException | None,
        last: Token | None,
        sequence: KvSequence | None,
    ) -> None:
        job.answer.error = error  # its last token may be asked why
        with Caught() as caught:
            job.answer.emit(last or job.tokens.end(reason))
        if caught.error is not None:
            reason, error = "error", caught.error
        job.request.on_end(job.tokens)
        if error is not None:
            _log.error("an answer failed", exc_info=error)
        self._done.count_end(reason)
        self._queue.leave(job, job.answer.placed_s)
        write = self._prefixes.write(job, sequence) if reason in ("stop", "length") else None
        if write is None:
            job.answer.end(reason, error)
        else:  # an answer is over when what it leaves on disk is there
            write.add_done_callback(lambda _: job.answer.end(reason))

    def _leave_place(self, job: Job) -> None:
        job.answer.flush()
        if job.sequence is not None:
            self._decoder.sequences.release(job.sequence)
            job.sequence = None
            self.running.remove(job)
