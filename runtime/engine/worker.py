"""The thread that computes: every step gives each running answer its next token, and takes prompts a part further."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence

from edge_llava.errors import BackendError
from edge_llava.runtime.answer import FinishReason, Token
from edge_llava.runtime.engine.disk_prefixes import DiskPrefixes
from edge_llava.runtime.engine.job import Job
from edge_llava.runtime.engine.job_images import JobImages
from edge_llava.runtime.engine.metrics import EngineMetrics
from edge_llava.runtime.engine.queue import JobQueue
from edge_llava.runtime.engine.step import Chunk, Decode, Parts, StepPlan, StepSize, plan_step
from edge_llava.runtime.kv.sequences import NoCells
from edge_llava.runtime.language.decoder import Decoder
from edge_llava.runtime.lifetime.cancel import Cancelled
from edge_llava.runtime.lifetime.caught import Caught
from edge_llava.runtime.vision.tower import Tower

_log = logging.getLogger("edge_llava.engine")


class Worker:
    """Owns the running jobs. `run` is the engine thread's; nothing else may use decoder and disk at the same time.

    Attributes:
        running: Jobs that have a place, the oldest first.
        forgotten: Owners that are gone, see `KvSequences.forget`; any thread may append one.
    """

    def __init__(
        self, decoder: Decoder, queue: JobQueue, tower: Tower, disk: DiskPrefixes, done: EngineMetrics, size: StepSize
    ) -> None:
        """`done` counts what is done; the others are what it works with."""
        self.running: list[Job] = []
        self.forgotten: deque[int] = deque()
        self._decoder, self._queue, self._disk, self._done, self._size = decoder, queue, disk, done, size
        self._images = JobImages(tower, queue.wake)
        self._n_looked_ahead = 0  # the images of jobs with smaller numbers were requested while they waited
        self._is_full = False  # a job was preempted: none gets a place before another is over

    def run(self) -> None:
        """Works until the queue is closed; every job is over then, also where a fault ends the work."""
        with Caught() as caught:
            while self._queue.wait(self._has_work, self._pause):
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
        if len(self._queue) == 0 or self._is_full:
            return False
        may_displace = self._find_held() is not None or self._find_preparation() is not None
        return self._has_place or (self._queue.has_question and may_displace)

    def _flush(self) -> None:
        """Readers get what was kept back, before something else takes longer than that."""
        for job in self.running:
            job.answer.flush()

    def _pause(self) -> None:
        self._flush()
        if not self.running:
            self._decoder.pause()

    def _can_continue(self, job: Job) -> bool:
        if job.is_preparation and not self._may_prepare:
            return job.is_prepared
        if job.reading is not None:
            return job.reading.state.done()
        if job.is_prepared or job.can_compute():
            return True
        return job.prefix_source() is None and any(
            image.encoding is None or image.encoding.done() for image in job.missing_images(job.n_computed)
        )

    @property
    def _has_place(self) -> bool:
        return len(self.running) < self._done.n_parallel and not self._is_full

    def _find_held(self) -> Job | None:
        """A running job whose reader does not continue; others may have its place."""
        return next((job for job in self.running if job.answer.is_held and job.is_decoding), None)

    def _find_preparation(self) -> Job | None:
        """A running preparation, whose place an answer may have."""
        return next((job for job in self.running if job.is_preparation), None)

    @property
    def _may_prepare(self) -> bool:
        """Whether no answer is running, but those whose readers do not continue."""
        return all(job.is_preparation or job.answer.is_held for job in self.running)

    def _to_compute(self) -> list[Job]:
        return [job for job in self.running if not job.is_preparation or self._may_prepare]

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
        for job in self._to_compute():
            if not job.is_decoding:
                self._prepare(job)
        for job in tuple(self.running):
            if job.is_prepared:  # and shared with who needs it, too
                self._end(job, "stop")
        self._decoder.spare_threads(int(self._images.opens_tower_for(self.running)))
        plan = self._plan()
        if plan.n_positions:
            self._compute(plan)

    def _decode_on(self) -> None:
        """Takes steps of next tokens alone while nothing else happens: the rest of a step takes time, too."""
        while self.running and not self._queue.has_changed and not self.forgotten:
            is_steady = all(job.is_decoding and job.can_compute() for job in self.running)
            if not is_steady or not self._decoder.sequences.has_room(len(self.running)):
                return
            self._compute(StepPlan([(job, job.next_token()) for job in self.running], [], []))

    def _fill_places(self) -> None:
        self._decoder.note_others()  # before the image is encoded, which shows what they take
        if self._queue.has_question:
            self._make_place()
        while self._has_place and (job := self._queue.take()) is not None:
            if job.is_preparation and self._is_known(job):  # the question came first, and is answered
                self._end(job, "stop")
                continue
            self._take_over(job)
            job.sequence = self._decoder.sequences.claim(job.shareable, job.request.salt, job.request.owner)
            job.answer.note_place(job.n_computed)
            job.find_sources(self.running)
            self.running.append(job)
            self.running.sort(key=lambda job: job.rank)
            self._disk.start(job)

    def _is_known(self, job: Job) -> bool:
        return self._decoder.sequences.count_known(job.wanted, job.request.salt) >= len(job.wanted) - 1

    def _take_over(self, job: Job) -> None:
        """An answer continues what was prepared for it in the preparation's place."""
        if job.is_preparation:
            return
        for preparation in [other for other in self.running if other.is_preparation and not job.is_in_the_way(other)]:
            self._end_for(preparation, [job])

    def _end_for(self, preparation: Job, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self._images.hand_over(preparation, job)
        self._end(preparation, "cancelled")

    def _make_place(self) -> None:
        """For an answer that waits: a preparation ends, which the answer continues, or one is held that is not read."""
        while not self._has_place and not self._is_full:
            if (preparation := self._find_preparation()) is not None:
                self._end_for(preparation, [job for job in self._queue.waiting() if not job.is_preparation])
            elif (held := self._find_held()) is not None:
                self._leave_place(held)
                self._queue.hold(held)
            else:
                return

    def _look_ahead(self) -> None:
        """Requests the images of jobs that wait for a place, so that tower and language model both work."""
        for job in self._queue.waiting():
            if job.number >= self._n_looked_ahead and not job.is_preparation:
                self._n_looked_ahead = job.number + 1
                job.find_sources(self.running)
                n_known = max(job.n_coming, self._decoder.sequences.count_known(job.wanted, job.request.salt))
                for image in job.missing_images(max(n_known, self._disk.count(job, n_known))):
                    self._images.request(image)

    def _prepare(self, job: Job) -> None:
        """Gives a running job what others have computed, what came from disk, and the image rows that have come."""
        n_shared, source = job.prefix_source() or (0, job)
        if source.sequence is not None and job.sequence is not None:
            n_before = job.n_computed
            self._decoder.sequences.share(source.sequence, job.sequence, n_shared)
            job.answer.note_shared(job.n_computed - n_before)
        with Caught() as caught:
            self._disk.finish(job)
            if job.prefix_source() is None:
                self._images.fetch(job)
        if caught.error is not None:
            self._end(job, "error", caught.error)

    def _plan(self) -> StepPlan:
        """The next step. Until it fits, idle conversations leave the KV cache, it grows, or the youngest job leaves."""
        sequences = self._decoder.sequences
        n_prompt = self._size.prompt_positions(any(job.is_decoding for job in self.running))
        while True:
            plan, n_moves = self._size.gather(plan_step(self._to_compute(), n_prompt)), sequences.n_moves
            if not sequences.make_room(plan.n_positions):
                self._preempt()
            elif sequences.n_moves == n_moves:  # otherwise some of what moved may have been lost
                return plan

    def _preempt(self) -> None:
        """Takes the youngest job's place from it; it gets another when one is over."""
        job = self.running[-1]
        if job.is_preparation:
            self._end(job, "cancelled")
            return
        if len(self.running) == 1:
            self._end(job, "error", BackendError("llama.cpp has no room left in its KV cache for a single answer."))
            return
        self._done.preempted_total += 1
        self._is_full = True
        self._leave_place(job)
        self._queue.put_back(job)

    def _compute(self, plan: StepPlan) -> None:
        started = time.perf_counter()
        if plan.decoding:
            self._sample_all(plan.decoding, self._decode(plan.decoding, self._decoder.decode_tokens))
        if plan.rows or plan.texts:
            self._flush()
            between = time.perf_counter()
            self._prefill(plan.rows, self._decoder.decode_rows)
            self._prefill(plan.texts, self._decoder.decode_tokens)
            self._size.learn(plan.n_prompt, time.perf_counter() - between)
        self._done.steps_total += 1
        self._done.decode_seconds_total += time.perf_counter() - started

    def _prefill(self, parts: Parts[Chunk], decode: Decode[Chunk]) -> None:
        """Computes parts of prompts, those that have not lost their place since. It stops when all were cancelled.

        Not for next tokens: they take so little time that a cancelled answer can wait for the end of it.
        """
        parts = [(job, chunk) for job, chunk in parts if job.sequence is chunk.sequence]
        if not parts:
            return
        before = [job.n_computed for job, _ in parts]
        started = time.perf_counter()
        self._queue.start_computing([job for job, _ in parts])
        try:
            ends = self._decode(parts, decode)
        finally:
            self._queue.stop_computing()
        for (job, _), n_before in zip(parts, before, strict=True):
            job.answer.note_prefill(time.perf_counter() - started, max(0, job.n_computed - n_before))
        self._sample_all(parts, ends)

    def _decode(self, parts: Parts[Chunk], decode: Decode[Chunk]) -> Sequence[int]:
        """Where in the batch each part ends; empty if it failed, which ends the answers whose fault it is."""
        try:
            return decode([chunk for _, chunk in parts]) or ()
        except NoCells:  # llama.cpp has less room than was counted: the next step has one conversation less
            self._preempt()
        except Cancelled:  # by all of them, or by closing: the next step ends them
            pass
        except BackendError as error:
            for job, _ in parts:
                self._end(job, "error", error)
        return ()

    def _sample_all(self, parts: Parts[Chunk], ends: Sequence[int]) -> None:
        for (job, chunk), end in zip(parts, ends, strict=False):
            if chunk.is_last:
                self._sample(job, end)

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
            for image in job.images.values():
                image.stop_encoding()
        finally:
            job.answer.error = error  # its last token may be asked why
            with Caught() as caught:
                job.answer.emit(last or job.tokens.end(reason))
            if caught.error is not None:
                reason, error = "error", caught.error
            job.request.on_end(job.tokens)
            if error is not None:
                _log.error("an answer failed", exc_info=error)
            if job.is_preparation:
                self._queue.leave(job, 0)
            else:
                self._done.count_end(reason)
                self._queue.leave(job, job.answer.placed_s)
            write = self._disk.write(job, sequence) if reason in ("stop", "length") else None
            if write is None:
                job.answer.end(reason, error)
            else:  # an answer is over when what it leaves on disk is there
                write.add_done_callback(lambda _: job.answer.end(reason))

    def _leave_place(self, job: Job) -> None:
        job.answer.flush()
        self._disk.cancel(job)
        if job.sequence is not None:
            self._decoder.sequences.release(job.sequence, job.request.n_shareable)
            job.sequence = None
            self.running.remove(job)
