from __future__ import annotations

import threading
import time

import pytest

from edge_llava.errors import EdgeLlavaError
from edge_llava.runtime.engine.turn_lock import TurnLock
from edge_llava.runtime.lifetime.cancel import Cancelled


@pytest.fixture
def lock():
    return TurnLock()


def wait_until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def start(target):
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    return thread


def queue_up(lock, n, job):
    """Starts n threads that wait in a known order."""
    threads = []
    for i in range(n):
        threads.append(start(lambda i=i: job(i)))
        wait_until(lambda i=i: len(lock._queue) == i + 1)
    return threads


def test_first_come_first_served(lock):
    order, never = [], threading.Event()

    def job(i):
        lock.acquire(never)
        order.append(i)
        lock.release()

    lock.acquire(never)
    threads = queue_up(lock, 5, job)
    assert order == []
    lock.release()
    for thread in threads:
        thread.join(20)
    assert order == [0, 1, 2, 3, 4]


def test_one_at_a_time(lock):
    inside, most, never = [0], [0], threading.Event()

    def job():
        for _ in range(20):
            lock.acquire(never)
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0)
            inside[0] -= 1
            lock.release()

    threads = [start(job) for _ in range(4)]
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert (inside[0], most[0]) == (0, 1)


def test_leaving_the_queue(lock):
    order, cancels, left = [], [threading.Event() for _ in range(3)], threading.Event()

    def job(i):
        try:
            lock.acquire(cancels[i])
        except Cancelled:
            left.set()
            return
        order.append(i)
        lock.release()

    never = threading.Event()
    lock.acquire(never)
    threads = queue_up(lock, 3, job)
    cancels[1].set()
    assert left.wait(20)
    lock.release()
    for thread in threads:
        thread.join(20)
    assert order == [0, 2]


def test_first_in_the_queue_leaves(lock):
    cancel, never, got = threading.Event(), threading.Event(), threading.Event()

    def job(i):
        try:
            lock.acquire([cancel, never][i])
        except Cancelled:
            return
        got.set()
        lock.release()

    lock.acquire(never)
    threads = queue_up(lock, 2, job)
    cancel.set()
    threads[0].join(20)
    assert not got.is_set()
    lock.release()
    assert got.wait(20)


def test_no_thread_waits_for_itself(lock):
    never = threading.Event()
    lock.acquire(never)
    with pytest.raises(EdgeLlavaError, match=r"^another answer is still open on this thread"):
        lock.acquire(never)
    lock.release()
    lock.acquire(never)
    lock.release()


def test_free_turn_is_taken_even_when_cancelled(lock):
    """Whether to work at all is the caller's question; the lock only stops waiting."""
    cancel = threading.Event()
    cancel.set()
    lock.acquire(cancel)
    lock.release()


def test_ctrl_c_in_the_queue_leaves_it(lock):
    class Interrupted(threading.Event):
        def is_set(self):
            raise KeyboardInterrupt

    never = threading.Event()
    lock.acquire(never)
    held_by = lock._owner
    lock._owner = -1  # another thread
    with pytest.raises(KeyboardInterrupt):
        lock.acquire(Interrupted())
    lock._owner = held_by
    lock.release()
    got = start(lambda: (lock.acquire(never), lock.release()))
    got.join(20)
    assert not got.is_alive()
