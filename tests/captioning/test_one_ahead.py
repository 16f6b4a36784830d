from __future__ import annotations

import threading
import weakref
from contextlib import closing

import pytest

from edge_llava.captioning.one_ahead import work_one_ahead


class Result:
    """Something that is large in real life."""


def test_every_item_in_order_with_its_result():
    assert list(work_one_ahead("abc", lambda item, stop: item.upper())) == [("a", "A"), ("b", "B"), ("c", "C")]
    assert list(work_one_ahead([], lambda item, stop: item)) == []


def test_the_next_one_is_worked_on_meanwhile_and_no_further():
    begun, seconds = [], threading.Event()

    def work(item, stop):
        begun.append(item)
        if item == 1:
            seconds.set()
        return item

    with closing(work_one_ahead(range(5), work)) as results:
        assert next(results) == (0, 0)
        assert seconds.wait(20)  # without asking for it
        assert begun == [0, 1]
        assert next(results) == (1, 1)


def test_two_results_exist_at_most():
    """Counts results whenever one more is about to be made, while the caller keeps its own as long as possible."""
    alive, numbers, made = weakref.WeakSet(), [], threading.Semaphore(0)

    def work(item, stop):
        result = Result()
        alive.add(result)
        numbers.append(len(alive))
        made.release()
        return result

    with closing(work_one_ahead(range(20), work)) as results:
        for item, result in results:
            assert made.acquire(timeout=20)  # this one
            if item < 19:
                assert made.acquire(timeout=20)  # and the next
                made.release()
            assert isinstance(result, Result)
            del result
    assert len(numbers) == 20
    assert max(numbers) == 2
    assert len(alive) == 0


def test_leaving_early_stops_the_work_and_waits_for_it():
    begun, stopped = threading.Event(), threading.Event()

    def work(item, stop):
        if item:
            begun.set()
            assert stop.wait(20)
            stopped.set()

    with closing(work_one_ahead([0, 1, 2], work)) as results:
        next(results)
        assert begun.wait(20)
        assert not stopped.is_set()
    assert stopped.is_set()


def test_an_error_comes_when_its_result_is_due():
    def work(item, stop):
        if item == 1:
            raise ValueError("broken")
        return item

    results = work_one_ahead([0, 1, 2], work)
    assert next(results) == (0, 0)
    with pytest.raises(ValueError, match="broken"):
        next(results)
    assert list(results) == []
