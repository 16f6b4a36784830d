"""The thread that computes: every step gives each running answer its next token, and takes prompts a part further."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from edge_llava.errors import BackendError
from edge_llava.runtime.answer import FinishReason, Token
from edge_llava.runtime.dialogue.answer_history import SaidAnswer, SaidAnswers
from edge_llava.runtime.engine.image_queue import PictureQueue
from edge_llava.runtime.engine.job import Job
from edge_llava.runtime.engine.queue import JobQueue
from edge_llava.runtime.engine.step import StepPlan, TextPart, plan_step
from edge_llava.runtime.engine.step_size import StepSize
from edge_llava.runtime.language.decoder import BatchDecoder, NoCells
from edge_llava.runtime.lifetime.cancel import Cancelled
from edge_llava.runtime.lifetime.caught import Caught

_log = logging.getLogger("edge_llava.batch")


@dataclass
class WorkDone:
    """What the worker has done so far; counts, and seconds.

    Attributes:
        answers, cancelled, failed: Answers that came to their end, were left, ended with an error.
        prompt_tokens, cached_tokens: Positions of prompts, and those among them that were computed before.
        tokens: Tokens of answers.
        steps: Times that every flowing answer got its next token.
        decode_s: Time that they took.
        gave_way: Times that an answer lost its place in a full KV cache, and was computed again.
    """

    answers: int = 0
    cancelled: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    tokens: int = 0
    steps: int = 0
    decode_s: float = 0.0
    gave_way: int = 0

    def count_end(self, reason: FinishReason) -> None:
        """An answer is over."""
        if reason == "cancelled":
            self.cancelled += 1
        elif reason == "error":
            self.failed += 1
        else:
            self.answers += 1


class BatchWorker:
    """Owns the running jobs. `run` is a thread's; nothing else may touch decoder and pictures meanwhile.

    Attributes:
        running: Jobs that have a place, the oldest first.
        done: What was done so far.
    """

    def __init__(
        self, decoder: BatchDecoder, queue: JobQueue, pictures: PictureQueue, said: SaidAnswers, n_parallel: int
    ) -> None:
        """
        Args:
            decoder: The language model.
            queue: Where jobs come from.
            pictures: The tower.
            said: Learns complete answers.
            n_parallel: Jobs that run at a time.
        """
        self.running: list[Job] = []
        self.done = WorkDone()
        self._decoder, self._queue, self._pictures, self._said = decoder, queue, pictures, said
        self._n_parallel = n_parallel
        self._size = StepSize(decoder.n_batch)
        self._n_looked_ahead = 0  # jobs with smaller numbers had their pictures begun while they waited
        self._is_full = False  # a job gave its place up: none gets one before another is over

    def run(self) -> None:
        """Works until the queue is closed; every job is over then, also where a fault ends the work."""
        with Caught() as caught:
            while self._queue.wait(self._has_work):
                self._step()
        self._queue.close()
        reason: FinishReason = "error" if caught.error else "cancelled"
        for job in self._queue.take_all():
            with Caught() as again:
                self._end(job, reason, caught.error)
            caught.error = caught.error or again.error
        if caught.error is not None:  # a fault of this file or below it: nobody is left waiting, and it is heard of
            raise caught.error

    def _has_work(self) -> bool:
        if len(self._queue) > 0 and self._has_place:
            return True
        return any(job.is_cancelled or self._can_go_on(job) for job in self.running)

    def _can_go_on(self, job: Job) -> bool:
        if job.next_chunk(1) is not None:
            return True
        return job.leader() is None and any(map(self._pictures.has_news, job.missing_images(job.n_computed)))

    @property
    def _has_place(self) -> bool:
        return len(self.running) < self._n_parallel and not self._is_full

    def _step(self) -> None:
        for job in [*self._queue.take_left(), *(job for job in self.running if job.is_cancelled)]:
            self._end(job, "cancelled")
        self._fill_places()
        if self.running:
            self._decoder.sequences.tidy()
        self._look_ahead()
        for job in tuple(self.running):
            self._prepare(job)
        n_prompt = self._size.prompt_positions(any(job.is_flowing for job in self.running))
        plan = self._make_room(plan_step(self.running, n_prompt))
        if plan.n_positions:
            self._compute(plan)

    def _fill_places(self) -> None:
        while self._has_place and (job := self._queue.take()) is not None:
            job.sequence = self._decoder.sequences.claim(job.wanted, job.salt)
            job.answer.note_place(job.n_computed)
            job.follow(self.running)
            self.running.append(job)
            self.running.sort(key=lambda job: job.number)

    def _look_ahead(self) -> None:
        """Begins with the pictures of those who wait for a place, so that tower and language model both work."""
        for job in self._queue.waiting():
            if job.number >= self._n_looked_ahead:
                self._n_looked_ahead = job.number + 1
                job.follow(self.running)
                n_shared, _ = job.leader() or (0, None)
                n_known = max(n_shared, self._decoder.sequences.count_known(job.wanted, job.salt))
                for image in job.missing_images(n_known):
                    self._pictures.ask(image)

    def _prepare(self, job: Job) -> None:
        """Gives a running job what others have computed, and the rows of its pictures that have come."""
        while job.sequence is not None and (leading := job.leader()) is not None:
            n_shared, leader = leading
            n_before = job.n_computed
            if leader.sequence is not None:
                self._decoder.sequences.share(leader.sequence, job.sequence, n_shared)
            job.answer.note_shared(job.n_computed - n_before)
            if job.n_computed < n_shared:
                break
        with Caught() as caught:
            self._fetch_pictures(job)
        if caught.error is not None:
            self._end(job, "error", caught.error)

    def _fetch_pictures(self, job: Job) -> None:
        if job.leader() is None:
            for image in job.missing_images(job.n_computed):
                self._pictures.ask(image)
                rows = self._pictures.collect(image)
                if rows is not None:
                    job.answer.note_picture(rows.vision_s + rows.projector_s)

    def _make_room(self, plan: StepPlan) -> StepPlan:
        """Moves idle conversations, or else the youngest running one, out of the KV cache until the step fits."""
        while not self._decoder.sequences.make_room(plan.n_positions):
            plan = plan.without(self._give_way())
        return plan

    def _give_way(self) -> Job:
        """Takes the youngest job's place from it; it gets another when one is over."""
        job = self.running[-1]
        if len(self.running) == 1:
            self._end(job, "error", BackendError("llama.cpp has no room left in its KV cache for a single answer."))
            return job
        self.done.gave_way += 1
        self._is_full = True
        self._leave_place(job)
        self._queue.put_back(job)
        return job

    def _compute(self, plan: StepPlan) -> None:
        started = time.perf_counter()
        self._compute_tokens(plan.flowing)
        between = time.perf_counter()
        rows = [(job, chunk) for job, chunk in plan.rows if job.sequence is chunk.sequence]
        if rows:
            with self._computing([job for job, _ in rows]):
                self._decoder.decode_rows([chunk for _, chunk in rows])
        self._compute_tokens(plan.texts)
        ended = time.perf_counter()
        self._size.learn(plan.n_prompt, ended - between)
        self.done.steps, self.done.decode_s = self.done.steps + 1, self.done.decode_s + ended - started

    def _compute_tokens(self, parts: Sequence[TextPart]) -> None:
        """Computes them all at once, and draws the next tokens."""
        parts = [(job, chunk) for job, chunk in parts if job.sequence is chunk.sequence]  # who has not lost its place
        if not parts:
            return
        ends: list[int] = []
        with self._computing([job for job, _ in parts]):
            ends = self._decoder.decode_tokens([chunk for _, chunk in parts])
        for (job, chunk), end in zip(parts, ends, strict=False):  # no ends where it failed
            if chunk.is_last:
                self._draw(job, end)

    @contextmanager
    def _computing(self, jobs: list[Job]) -> Iterator[None]:
        self._queue.start_computing(jobs)
        try:
            yield
        except NoCells:  # llama.cpp has less room than was counted: the next step has one conversation less
            self._give_way()
        except Cancelled:  # by all of them, or by closing: the next step ends them
            pass
        except BackendError as error:
            for job in jobs:
                self._end(job, "error", error)
        finally:
            self._queue.stop_computing()

    def _draw(self, job: Job, index: int) -> None:
        if not job.tokens.ids:
            self.done.prompt_tokens += job.answer.n_prompt_tokens
            self.done.cached_tokens += job.answer.n_cached_tokens or 0
        try:
            id = job.sampler.sample(self._decoder.context, index)
        except BackendError as error:  # its grammar's
            self._end(job, "error", error)
            return
        ranking = job.sampler.rank(self._decoder.context, id, index)
        token = job.tokens.take(id, is_full=job.n_computed >= self._decoder.n_ctx, ranking=ranking)
        self.done.tokens += 1
        if token.finish_reason is not None:
            self._end(job, token.finish_reason, last=token)
            return
        job.wanted.append(id)
        with Caught() as caught:
            job.tell(token)
        if caught.error is not None:
            self._end(job, "error", caught.error)

    def _end(
        self, job: Job, reason: FinishReason, error: BaseException | None = None, *, last: Token | None = None
    ) -> None:
        """Frees everything a job has, then tells its client; this one also if that fails."""
        try:
            self._leave_place(job)
            self._is_full = False
            job.sampler.close()
            for image in job.images:
                self._pictures.leave(image)
        finally:
            self._tell_end(job, reason, error, last)

    def _tell_end(self, job: Job, reason: FinishReason, error: BaseException | None, last: Token | None) -> None:
        job.answer.error = error  # its last token may be asked why
        with Caught() as caught:
            job.tell(last or job.tokens.end(reason))
        if caught.error is not None:
            reason, error = "error", caught.error
        if job.tokens.ids:
            answer = SaidAnswer((*job.start.ids, *job.tokens.whole_ids()), job.tokens.remainder())
            self._said.remember(job.runs, job.start.text + job.text, answer, job.salt)
        if error is not None:
            _log.error("an answer failed", exc_info=error)
        self.done.count_end(reason)
        self._queue.leave(job, job.answer.placed_s)
        job.answer.end(reason, error)

    def _leave_place(self, job: Job) -> None:
        if job.sequence is not None:
            self._decoder.sequences.release(job.sequence)
            job.sequence = None
            self.running.remove(job)
