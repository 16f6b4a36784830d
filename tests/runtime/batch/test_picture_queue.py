from __future__ import annotations

import gc
import threading
from concurrent.futures import Future

import numpy as np
import pytest

from edge_llava.errors import BackendError
from edge_llava.runtime.engine.image_queue import PictureQueue
from edge_llava.runtime.runs import ImageRun
from edge_llava.runtime.vision.image import Image
from edge_llava.runtime.vision.image_embedding import ImageEmbedding

PICTURE = Image.open(np.zeros((4, 4, 3), np.uint8))


class Tower:
    """Takes pictures; the test says when each is done."""

    def __init__(self):
        self.begun = []

    def start(self, image, key, cancel, *, identity):
        work = Future()
        work.set_running_or_notify_cancel()
        self.begun.append((key, cancel, work))
        return work

    def finish(self, n):
        key, _, work = self.begun[n]
        work.set_result(rows_of(key))


def rows_of(key):
    return ImageEmbedding(np.zeros((4, 8), np.float32), key, (2, 2), (4, 4), "00", "00", 0.25, 0.5)


def picture(key):
    return ImageRun(key, key, 4, PICTURE)


@pytest.fixture
def tower():
    return Tower()


@pytest.fixture
def queue(tower):
    return PictureQueue(tower.start, lambda: None)


def test_a_picture_is_encoded_once_for_all_that_wait(tower, queue):
    one, same, other = picture("a"), picture("a"), picture("b")
    assert queue.has_news(one)
    for run in (one, same, other, one):
        queue.ask(run)
    assert [key for key, _, _ in tower.begun] == ["a", "b"]
    assert not queue.has_news(one)
    assert queue.collect(one) is None
    tower.finish(0)
    assert queue.has_news(one)
    assert queue.collect(one) is one.embedding is not None
    assert queue.collect(one) is None
    assert not queue.has_news(one)
    assert queue.collect(same) is one.embedding
    assert (one.image, queue.n_encoded) == (None, 1)
    assert other.embedding is None


def test_rows_that_anybody_holds_are_not_encoded_again(tower, queue):
    one = picture("a")
    queue.ask(one)
    tower.finish(0)
    queue.collect(one)
    late = picture("a")
    queue.ask(late)
    assert late.embedding is one.embedding
    assert len(tower.begun) == 1
    del one, late, tower.begun[0]
    gc.collect()
    queue.ask(picture("a"))
    assert len(tower.begun) == 1


def test_given_rows_need_no_tower(tower, queue):
    run = ImageRun.of_embedding(rows_of("a"))
    queue.ask(run)
    assert tower.begun == []
    assert not queue.has_news(run)


def test_encoding_stops_when_the_last_one_leaves(tower, queue):
    one, same = picture("a"), picture("a")
    queue.ask(one)
    queue.ask(same)
    _, cancel, _ = tower.begun[0]
    queue.leave(one)
    assert not cancel.is_set()
    queue.leave(picture("a"))  # never asked
    assert not cancel.is_set()
    queue.leave(same)
    assert cancel.is_set()
    again = picture("a")
    queue.ask(again)
    assert len(tower.begun) == 2
    assert not tower.begun[1][1].is_set()


def test_everyone_hears_of_a_failure_and_it_is_tried_again(tower, queue):
    one, same = picture("a"), picture("a")
    queue.ask(one)
    queue.ask(same)
    tower.begun[0][2].set_exception(BackendError("broken"))
    for run in (one, same):
        with pytest.raises(BackendError, match="broken"):
            queue.collect(run)
    queue.ask(one)
    tower.finish(1)
    assert queue.collect(one) is one.embedding is not None
    assert queue.n_encoded == 1


def test_who_waits_is_woken():
    tower, woken = Tower(), threading.Event()
    queue = PictureQueue(tower.start, woken.set)
    queue.ask(picture("a"))
    assert not woken.is_set()
    tower.finish(0)
    assert woken.is_set()
