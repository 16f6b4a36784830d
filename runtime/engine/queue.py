"""The queue before the running answers: bounded, in order, and left at once by what is cancelled."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count

from edge_llava.errors import EdgeLlavaError, QueueFull
from edge_llava.runtime.engine.job import Job
from edge_llava.runtime.language.decoder import AbortSwitch

_FIRST_GUESS_S, _SHARE_OF_NEW = 2.0, 0.2


class JobQueue:
    """Between the threads of clients, which put jobs in and cancel them, and the worker, which takes them out.

    "The worker's" methods are for its thread only.

    Attributes:
        is_closed: Whether nothing is taken in any more.
        has_changed: Whether something happened since `wait` returned that the worker should look at.
        n_refused: Jobs that found it full.
    """

    def __init__(self, n_parallel: int, n_queued: int | None, abort: AbortSwitch) -> None:
        """`n_parallel` jobs run at a time, and `n_queued` may wait (None: any number).

        `abort` stops the worker's computation; it is set when everything in it was cancelled.
        """
        self.is_closed = self.has_changed = False
        self.n_refused = 0
        self._n_parallel, self._n_most = n_parallel, None if n_queued is None else n_parallel + n_queued
        self._abort = abort
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._held: list[Job] = []  # out of the running ones until more of them is read
        self._left: list[Job] = []  # cancelled while they waited; their last token is still to be emitted
        self._numbers = count(1)
        self._inside: list[Job] = []  # all that are not over, wherever they are
        self._computing: Sequence[Job] = ()
        self._job_s = _FIRST_GUESS_S

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def has_question(self) -> bool:
        """Whether an answer waits, and not only preparations."""
        with self._changed:
            return any(not job.is_preparation for job in self._waiting)

    def check_room(self, *, is_preparation: bool = False) -> None:
        """Raises QueueFull if a job put in now would be refused, EdgeLlavaError if it is closed.

        There may be as many preparations as answers; neither takes the other's room.
        """
        with self._changed:
            if self.is_closed:
                raise EdgeLlavaError("this model is closed. Load it again.")
            n_inside = sum(job.is_preparation == is_preparation for job in self._inside)
            if self._n_most is not None and n_inside >= self._n_most:
                self.n_refused += 1
                raise QueueFull(n_inside, self._job_s * (len(self._waiting) + 1) / self._n_parallel)

    def put(self, job: Job) -> None:
        """Lets a job in at the end. Raises as `check_room`."""
        with self._changed:
            self.check_room(is_preparation=job.is_preparation)
            job.number = next(self._numbers)
            self._inside.append(job)
            self._waiting.append(job)
            if not job.is_preparation and self._computing and all(map(job.is_in_the_way, self._computing)):
                self._abort.set()  # it is computed later
            self.wake()

    def put_back(self, job: Job) -> None:
        """The worker's: a preempted job is the next to get a place."""
        with self._changed:
            self._waiting.appendleft(job)

    def hold(self, job: Job) -> None:
        """The worker's: a job that left its place to others until its reader continues."""
        with self._changed:
            self._held.append(job)
            self.release(job)  # if it was read in the meantime

    def release(self, job: Job) -> None:
        """From any thread: a held job may continue."""
        with self._changed:
            if job in self._held and job.answer.check_credit():
                self._held.remove(job)
                self._waiting.append(job)
            self.wake()

    def take(self) -> Job | None:
        """The worker's: the next job, if there is one; preparations are the last."""
        with self._changed:
            job = next((job for job in self._waiting if not job.is_preparation), None)
            job = job or next(iter(self._waiting), None)
            if job is not None:
                self._waiting.remove(job)
            return job

    def take_left(self) -> list[Job]:
        """The worker's: jobs that left while they waited."""
        with self._changed:
            left, self._left = self._left, []
            return left

    def take_all(self) -> list[Job]:
        """The worker's: every job that is not over, wherever it is, the oldest first; none is in line any more."""
        with self._changed:
            self._left.clear()
            self._waiting.clear()
            self._held.clear()
            return list(self._inside)

    def waiting(self) -> list[Job]:
        """Those in line."""
        with self._changed:
            return list(self._waiting)

    def cancel(self, job: Job) -> None:
        """From any thread: a waiting job leaves at once, a running one at the worker's next look."""
        with self._changed:
            job.is_cancelled = True
            for place in (self._waiting, self._held):
                if job in place:
                    place.remove(job)
                    self._left.append(job)
            if self._computing and all(computed.is_cancelled for computed in self._computing):
                self._abort.set()
            self.wake()

    def leave(self, job: Job, seconds: float) -> None:
        """The worker's: a job is over, after so many seconds in its place; 0 if it had none."""
        with self._changed:
            self._inside.remove(job)
            if seconds:
                self._job_s += _SHARE_OF_NEW * (seconds - self._job_s)

    def start_computing(self, jobs: Sequence[Job]) -> None:
        """The worker's: these are computed until `stop_computing`."""
        with self._changed:
            self._computing = jobs
            if all(job.is_cancelled for job in jobs):
                self._abort.set()

    def stop_computing(self) -> None:
        """The worker's: see `start_computing`."""
        with self._changed:
            self._computing = ()
            if not self.is_closed:
                self._abort.clear()

    def wait(self, has_work: Callable[[], bool], before: Callable[[], None] = lambda: None) -> bool:
        """The worker's: waits for something to do; False once the queue is closed.

        Args:
            has_work: Looked at whenever something changed, under the lock.
            before: Called before this really waits.
        """
        with self._changed:
            self.has_changed = False
            while not (self.is_closed or self._left or has_work()):
                before()
                self._changed.wait()
            return not self.is_closed

    def wake(self) -> None:
        """From any thread: something changed that `wait` should look at."""
        with self._changed:
            self.has_changed = True
            self._changed.notify_all()

    def close(self) -> None:
        """Takes nothing in any more and stops what is being computed; safe to call twice."""
        with self._changed:
            self.is_closed = True
            self._abort.set()
            self.wake()
