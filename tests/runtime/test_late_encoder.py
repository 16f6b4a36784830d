from __future__ import annotations

import threading
import time

import pytest

from edge_llava.bundle import Bundle
from edge_llava.errors import BackendError
from edge_llava.runtime.cancel import Cancelled
from edge_llava.runtime.late_encoder import LateEncoder
from edge_llava.runtime.picture_encoder import PictureEncoder

pytestmark = pytest.mark.convert


@pytest.fixture
def opener(seeded_f32):
    """Opens the seeded tower; counts how often, and waits for `opener.go`."""

    def run():
        run.n_opened += 1
        assert run.go.wait(20)
        return PictureEncoder(Bundle.open(seeded_f32), n_threads=1)

    run.n_opened, run.go = 0, threading.Event()
    return run


def test_opened_once_and_only_when_asked_for(opener):
    late = LateEncoder(opener)
    assert (late.is_open, late.open_s, opener.n_opened) == (False, 0.0, 0)
    found = []
    threads = [threading.Thread(target=lambda: found.append(late.get())) for _ in range(4)]
    for thread in threads:
        thread.start()
    opener.go.set()
    for thread in threads:
        thread.join(20)
    assert len(found) == 4
    assert len(set(map(id, found))) == 1
    assert opener.n_opened == 1
    assert late.open_s > 0
    late.close()
    late.close()


def test_waiting_can_be_left_and_opening_goes_on(opener):
    late, cancel = LateEncoder(opener), threading.Event()
    timer = threading.Timer(0.05, cancel.set)
    timer.start()
    started = time.perf_counter()
    with pytest.raises(Cancelled):
        late.get(cancel)
    assert time.perf_counter() - started < 10  # the opener would wait for 20
    timer.join()
    opener.go.set()
    assert isinstance(late.get(), PictureEncoder)
    assert opener.n_opened == 1
    late.close()


def test_an_opening_that_failed_is_tried_again(opener):
    failures = [BackendError("no memory"), BackendError("still none")]

    def open_at_third():
        if failures:
            raise failures.pop(0)
        return opener()

    opener.go.set()
    late = LateEncoder(open_at_third)
    for says in ("no memory", "still none"):
        with pytest.raises(BackendError, match=says):
            late.get()
        late.close()
    assert isinstance(late.get(), PictureEncoder)
    late.close()


def test_closing_what_was_never_opened(opener):
    LateEncoder(opener).close()
    assert opener.n_opened == 0


def test_cancel_while_the_tower_opens_leaves_the_session_usable(model, opener, noise, ids):
    model._tower = LateEncoder(opener)
    chat = model.session()
    answer = chat.ask("What is this?", image=noise(64, 48))
    timer = threading.Timer(0.05, chat.cancel)
    timer.start()
    (token,) = answer
    timer.join()
    assert (token.id, token.finish_reason) == (None, "cancelled")
    assert (chat.n_positions, chat.images) == (0, [])
    opener.go.set()
    assert ids(chat.ask("What is this?", image=noise(64, 48)))
    assert model.load_s > model._tower.open_s > 0
