from __future__ import annotations

import threading

import pytest

from edge_llava.errors import EdgeLlavaError, QueueFull
from edge_llava.runtime.engine.queue import JobQueue


class Answer:
    may_continue = False

    def check_credit(self):
        return self.may_continue


class Job:
    """What the queue knows of a job."""

    number, is_cancelled, is_preparation = 0, False, False

    def is_in_the_way(self, other):
        return other.is_preparation

    def __init__(self):
        self.answer = Answer()


class Switch:
    is_set = False

    def set(self):
        self.is_set = True

    def clear(self):
        self.is_set = False


@pytest.fixture
def switch():
    return Switch()


@pytest.fixture
def queue(switch):
    return JobQueue(2, 1, switch)


def test_first_come_first_served(queue):
    jobs = [Job() for _ in range(3)]
    for job in jobs:
        queue.put(job)
    assert [job.number for job in jobs] == [1, 2, 3]
    assert queue.waiting() == jobs
    assert [queue.take() for _ in range(4)] == [*jobs, None]


def test_one_that_was_preempted_is_next(queue):
    first, second = Job(), Job()
    queue.put(first)
    queue.put(second)
    assert queue.take() is first
    queue.put_back(first)
    assert queue.take() is first


def test_bound_counts_running_and_waiting(queue):
    jobs = [Job() for _ in range(3)]
    for job in jobs:
        queue.put(job)
    for _ in range(2):
        queue.take()
        with pytest.raises(QueueFull):
            queue.put(Job())
    assert (len(queue), queue.n_refused) == (1, 2)
    queue.leave(jobs[0], 4)
    queue.check_room()
    queue.put(Job())


def test_retry_after_goes_by_how_long_answers_take(queue):
    for _ in range(3):
        queue.put(Job())
    for seconds, expected in ((0, 4.0), (12, 8.0)):
        if seconds:
            queue.leave(queue.take(), seconds)
            queue.put(Job())
        with pytest.raises(QueueFull) as caught:
            queue.check_room()
        # an answer takes 2 s, at first, and then 4, a fifth of the way to 12; two run at a time, and four wait
        assert caught.value.retry_after_s == pytest.approx(expected)
        assert "3 answers" in str(caught.value)
        assert str(caught.value).endswith(f"{expected:.0f} s.")


def test_a_held_job_returns_when_more_of_it_is_read(queue):
    held, waiting = Job(), Job()
    for job in (held, waiting):
        queue.put(job)
    assert queue.take() is held
    queue.hold(held)
    queue.release(held)  # too little was read
    assert queue.waiting() == [waiting]
    held.answer.may_continue = True
    queue.release(held)
    queue.release(held)
    assert queue.waiting() == [waiting, held]
    assert [queue.take(), queue.take()] == [waiting, held]
    queue.hold(held)  # it was read in the meantime
    assert queue.waiting() == [held]


def test_a_held_job_counts_and_can_leave(queue):
    jobs = [Job() for _ in range(3)]
    for job in jobs:
        queue.put(job)
    queue.hold(queue.take())
    with pytest.raises(QueueFull):
        queue.check_room()
    queue.cancel(jobs[0])
    assert queue.take_left() == [jobs[0]]
    jobs[0].answer.may_continue = True
    queue.release(jobs[0])
    assert queue.waiting() == jobs[1:]


def test_leaving_the_line(queue):
    jobs = [Job() for _ in range(3)]
    for job in jobs:
        queue.put(job)
    queue.cancel(jobs[1])
    queue.cancel(jobs[1])
    assert queue.waiting() == [jobs[0], jobs[2]]
    assert [job.is_cancelled for job in jobs] == [False, True, False]
    assert queue.wait(lambda: False)  # there is something to do: its last token
    assert queue.take_left() == [jobs[1]]
    assert queue.take_left() == []


def test_what_is_not_waited_for_is_aborted(queue, switch):
    """Only when everything in the computation was left."""
    one, other = Job(), Job()
    queue.start_computing([one, other])
    queue.cancel(one)
    assert not switch.is_set
    queue.cancel(other)
    assert switch.is_set
    queue.stop_computing()
    assert not switch.is_set
    queue.start_computing([one])
    assert switch.is_set
    queue.stop_computing()
    queue.cancel(Job())
    assert not switch.is_set


def test_closing(queue, switch):
    running, waiting, left = Job(), Job(), Job()
    for job in (running, waiting, left):
        queue.put(job)
    assert queue.take() is running
    queue.cancel(left)
    queue.start_computing([Job()])
    queue.close()
    assert switch.is_set
    queue.stop_computing()
    assert switch.is_set  # and stays so
    assert not queue.wait(lambda: True)
    for refused in (queue.check_room, lambda: queue.put(Job())):
        with pytest.raises(EdgeLlavaError, match=r"^this model is closed"):
            refused()
    assert queue.take_all() == [running, waiting, left]
    assert (queue.take(), queue.take_left()) == (None, [])
    queue.leave(waiting, 0)
    assert queue.take_all() == [running, left]


@pytest.mark.parametrize("what", ["put", "wake", "close"])
def test_the_worker_is_woken(queue, what):
    seen, looked = [], threading.Event()

    def has_work():
        looked.set()
        return (what == "wake" and len(seen) > 0) or len(queue) > 0

    worker = threading.Thread(target=lambda: seen.append(queue.wait(has_work)))
    worker.start()
    assert looked.wait(30)
    {"put": lambda: queue.put(Job()), "wake": lambda: (seen.append(None), queue.wake()), "close": queue.close}[what]()
    worker.join(30)
    assert not worker.is_alive()
    assert seen[-1] is (what != "close")
