"""Leaving, failing and closing: at every stage of an answer, and without harm to the others."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import logging
import random
import threading
import time
import weakref

import numpy as np
import pytest

from edge_llava.errors import BackendError, EdgeLlavaError, QueueFull
from edge_llava.runtime.kv import disk_cache
from edge_llava.runtime.options import SamplingOptions
from edge_llava.runtime.vision.image_encoder import ImageEncoder
from edge_llava.runtime.vision.projector import Projector

pytestmark = pytest.mark.convert
GREEDY = SamplingOptions(temperature=0, max_new_tokens=12)
LONG = dataclasses.replace(GREEDY, max_new_tokens=300)


@pytest.fixture
def pictures(noise):
    return [noise(64, 48, seed=seed) for seed in range(3)]


@pytest.fixture
def held_tower(monkeypatch):
    """A tower that holds each picture until `release` is set, or whoever waits for it leaves."""

    class Tower:
        release, entered, encode = threading.Event(), threading.Event(), ImageEncoder.encode
        keys: list[str] = []  # noqa: RUF012

    def hold(self, image, key, cancel=None, *rest):
        Tower.keys.append(key)
        Tower.entered.set()
        while not Tower.release.wait(0.005) and not cancel.is_set():
            pass
        return Tower.encode(self, image, key, cancel, *rest)

    Tower.release.clear()
    Tower.entered.clear()
    Tower.keys = []
    monkeypatch.setattr(ImageEncoder, "encode", hold)
    yield Tower
    Tower.release.set()


def in_another_thread(action):
    thread = threading.Thread(target=action)
    thread.start()
    thread.join()


def test_leaving_in_the_queue(open_engine, seeded_f32, ask):
    engine, started = open_engine(seeded_f32, parallel=1), threading.Event()
    running = ask(engine, "What is this?", LONG, on_token=lambda _: started.set())
    assert started.wait(30)
    waiting, behind = ask(engine, "Why?", GREEDY), ask(engine, "How many?", GREEDY)
    waiting.answer.cancel()
    assert engine.metrics.queued <= 1  # left at once, whatever is being computed
    waiting.wait()
    assert running.reason is None
    assert [(token.id, token.text, token.finish_reason) for token in waiting.tokens] == [(None, "", "cancelled")]
    assert (waiting.answer.n_cached_tokens, waiting.answer.n_tokens, waiting.answer.error) == (None, 0, None)
    assert waiting.answer.timings().queued_s == 0
    assert running.wait().reason == "length"
    assert behind.wait().reason == "length"


def test_leaving_while_the_picture_is_encoded(open_engine, seeded_f32, ask, pictures, held_tower):
    """Its place is free, and neither the next picture nor a text waits for it."""
    engine = open_engine(seeded_f32, parallel=1)
    leaving = ask(engine, "What is this?", GREEDY, pictures[0])
    assert held_tower.entered.wait(30)
    text = ask(engine, "Why?", GREEDY)
    leaving.answer.cancel()
    assert leaving.wait().ids == [None]
    assert text.wait().reason == "length"
    held_tower.release.set()
    assert ask(engine, "What is this?", GREEDY, pictures[1]).wait().reason == "length"
    assert engine.metrics.images_encoded_total == 1


def test_a_picture_that_others_wait_for_is_encoded_on(engine, ask, pictures, held_tower):
    one, other = (ask(engine, question, GREEDY, pictures[0]) for question in ("What?", "Why?"))
    assert held_tower.entered.wait(30)
    one.answer.cancel()
    assert one.wait().reason == "cancelled"
    held_tower.release.set()
    assert other.wait().reason == "length"
    assert len(held_tower.keys) == 1 or held_tower.keys == [held_tower.keys[0]] * 2


def test_pictures_of_those_in_line_are_encoded_meanwhile(open_engine, seeded_f32, ask, pictures):
    engine, encoded = open_engine(seeded_f32, parallel=1), []
    running = ask(engine, "What?", LONG, on_token=lambda _: encoded.append(engine.metrics.images_encoded_total))
    waiting = ask(engine, "What is this?", GREEDY, pictures[0])
    assert running.wait().reason == "length"
    assert waiting.wait().reason == "length"
    assert waiting.answer.timings().vision_s > 0


def test_leaving_during_prefill(open_engine, seeded_f32, ask):
    """Told by the tokens of another, in the middle of a long prompt: what was computed stays, and is of use."""
    engine, said = open_engine(seeded_f32, {"n_batch": 32}, parallel=2), "word " * 150
    late, computed = [], []

    def look(_):
        if len(first.tokens) == 3:
            late.append(ask(engine, said, GREEDY))
        for job in engine.engine._worker.running[1:]:
            if job.n_computed > 100 and not computed:
                computed.append(job.n_computed)
                late[0].answer.cancel()

    first = ask(engine, "What is this?", dataclasses.replace(GREEDY, max_new_tokens=60), on_token=look)
    first.wait()
    assert late[0].wait().ids == [None]
    assert 100 < computed[0] < 200 < late[0].answer.n_prompt_tokens
    again = ask(engine, said, GREEDY).wait().answer
    assert computed[0] <= again.n_cached_tokens < again.n_prompt_tokens


@pytest.mark.parametrize("from_callback", [True, False])
def test_leaving_during_decode(engine, ask, model, from_callback):
    def leave(_):
        if len(asked.tokens) == 5:
            (asked.answer.cancel if from_callback else lambda: in_another_thread(asked.answer.cancel))()

    asked = ask(engine, "What is this?", LONG, on_token=leave)
    asked.wait()
    assert asked.ids[:5] == [token.id for token in model.session(GREEDY).ask("What is this?")][:5]
    assert (asked.ids[5:], asked.reason) == ([None], "cancelled")
    assert (asked.answer.n_tokens, asked.answer.finish_reason) == (5, "cancelled")
    asked.answer.cancel()  # again, of one that is over
    assert asked.answer.finish_reason == "cancelled"


def test_a_callback_that_raises_ends_its_own_answer(engine, ask, model, caplog):
    def fail(_):
        if len(broken.tokens) == 3:
            raise ZeroDivisionError("a bug of the caller")

    broken = ask(engine, "Why?", GREEDY, on_token=fail)
    fine = ask(engine, "What is this?", GREEDY)
    with caplog.at_level(logging.ERROR, "edge_llava.engine"):
        broken.wait()
    assert isinstance(broken.answer.error, ZeroDivisionError)
    assert (broken.answer.finish_reason, len(broken.tokens)) == ("error", 3)
    assert fine.wait().ids == [token.id for token in model.session(GREEDY).ask("What is this?")]
    assert "a bug of the caller" in caplog.text
    assert (engine.metrics.failed_total, engine.metrics.running) == (1, 0)


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError])
@pytest.mark.parametrize("n_told", [1, 12])
def test_whatever_a_callback_raises_ends_its_own_answer(engine, ask, kind, n_told):
    """Also what is no error elsewhere, and at the end, too."""

    def fail(_):
        if len(broken.tokens) == n_told:
            raise kind("of the caller")

    broken = ask(engine, "Why?", GREEDY, on_token=fail)
    fine = ask(engine, "What is this?", GREEDY)
    assert isinstance(broken.wait().answer.error, kind)
    assert (broken.answer.finish_reason, len(broken.tokens)) == ("error", n_told)
    assert fine.wait().reason == "length"
    assert engine.is_open
    assert ask(engine, "Why?", GREEDY).wait().reason == "length"


def fault_of(engine, place, monkeypatch):
    """Lets the engine fail at a place of its own."""

    def fail(*arguments):
        raise SystemExit("a fault")

    owner, name = {
        "step": (engine.engine.language.sequences, "tidy"),
        "place": (engine.engine.language.sequences, "claim"),
        "end": (engine.engine._worker._disk, "cancel"),
    }[place]
    monkeypatch.setattr(owner, name, fail)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # it is heard of
@pytest.mark.parametrize("place", ["step", "place", "end"])
def test_a_fault_that_ends_the_engine_ends_every_answer(open_engine, seeded_f32, ask, pictures, monkeypatch, place):
    """Wherever each is: in a place, on the way to one, in line, or about to be told its end."""
    engine, placed = open_engine(seeded_f32, parallel=2), threading.Event()
    asked_all = threading.Event()

    def hold(_):
        placed.set()
        asked_all.wait(30)

    asked = [ask(engine, "What is this?", GREEDY, pictures[0], on_token=hold)]
    assert placed.wait(30)
    asked += [ask(engine, f"Why, {n}?", GREEDY, pictures[1]) for n in range(4)]
    asked[-1].answer.cancel()
    fault_of(engine, place, monkeypatch)
    asked_all.set()
    for one in asked:
        assert one.wait().tokens[-1].finish_reason is not None
    assert "error" in [one.reason for one in asked]
    engine.engine._thread.join(30)
    assert not engine.is_open
    assert engine.metrics.queued == 0
    with pytest.raises(EdgeLlavaError, match=r"^this model is closed"):
        ask(engine, "Why?", GREEDY)


def test_a_picture_that_cannot_be_encoded(engine, ask, pictures, monkeypatch):
    monkeypatch.setattr(Projector, "__call__", lambda self, features: features * np.float32(np.nan))
    broken, asked_all, errors = [], threading.Event(), []

    def look(n):
        asked_all.wait(30)
        errors.append(broken[n].answer.error)

    for n, question in enumerate(("What is this?", "Why?")):
        broken.append(ask(engine, question, GREEDY, pictures[0], on_token=lambda _, n=n: look(n)))
    fine = ask(engine, "How many?", GREEDY)
    asked_all.set()
    for asked in broken:
        assert asked.wait().ids == [None]
        assert (asked.reason, asked.answer.finish_reason) == ("error", "error")
        assert isinstance(asked.answer.error, BackendError)
    assert errors == [asked.answer.error for asked in broken]
    assert fine.wait().reason == "length"
    monkeypatch.undo()
    assert ask(engine, "What is this?", GREEDY, pictures[0]).wait().reason == "length"


def test_a_batch_that_llama_cpp_refuses(engine, ask, monkeypatch):
    """Those in it fail, with its reason; the next is answered."""
    decode = engine.engine.language.decode_tokens

    def refuse(chunks):
        if any(chunk.n_tokens > 200 for chunk in chunks):
            raise BackendError("llama.cpp failed to decode (status -3): no reason.")
        return decode(chunks)

    monkeypatch.setattr(engine.engine.language, "decode_tokens", refuse)
    broken = ask(engine, "word " * 60, GREEDY).wait()
    assert (broken.reason, broken.answer.n_tokens) == ("error", 0)
    assert str(broken.answer.error) == "llama.cpp failed to decode (status -3): no reason."
    assert ask(engine, "Why?", GREEDY).wait().reason == "length"


def test_closing_ends_everyone(open_engine, seeded_f32, ask, pictures, held_tower):
    engine = open_engine(seeded_f32, parallel=2)
    started = threading.Event()
    longer = dataclasses.replace(LONG, max_new_tokens=900)  # than this thread may have to wait for a core
    flowing = ask(engine, "What is this?", longer, on_token=lambda _: started.set())
    encoding = ask(engine, "What is this?", LONG, pictures[0])
    waiting = [ask(engine, "Why?", LONG) for _ in range(3)]
    assert started.wait(30)
    assert held_tower.entered.wait(30)
    engine.close()
    for asked in (flowing, encoding, *waiting):
        assert asked.answer.wait(0)
        assert asked.reason == "cancelled"
    assert engine.engine._thread.is_alive() is False


def test_closing_from_a_callback(engine, ask):
    asked = ask(engine, "What is this?", LONG, on_token=lambda _: engine.close())
    assert asked.wait().reason == "cancelled"
    with pytest.raises(EdgeLlavaError, match=r"^this model is closed"):
        ask(engine, "Why?", GREEDY)


def test_a_long_prompt_alone_is_left_and_closed_in_the_middle(open_engine, seeded_f32, ask):
    """One batch takes it whole: llama.cpp is stopped inside."""
    engine = open_engine(seeded_f32, {"n_batch": 1024})
    for _ in range(3):
        asked = ask(engine, "word " * 235, GREEDY)
        while not engine.metrics.running and not asked.answer.wait(0.0005):
            pass
        asked.answer.cancel()
        assert asked.wait().reason == "cancelled"
    asked = ask(engine, "word " * 235, GREEDY)
    engine.close()
    assert asked.answer.wait(0)


def test_an_answer_that_is_over_holds_nothing(engine, ask, pictures):
    asked = ask(engine, "What is this?", GREEDY, pictures[0])
    held = weakref.ref(engine.engine._queue._inside[0])
    asked.wait()
    gc.collect()
    assert held() is None


@pytest.mark.parametrize("thread", ["engine", "tower", "cache"])
def test_the_collector_drops_an_answer_on_a_thread_of_the_model(
    open_engine, seeded_f32, ask, pictures, monkeypatch, thread
):
    """Of a session, and part of a cycle. The thread does not wait for what it would have to do itself."""
    engine = open_engine(seeded_f32, parallel=2, cache=thread == "cache")

    def drop(long):
        cycle = [engine.session(LONG if long else GREEDY)]
        cycle.append(cycle[0].ask("Why?", image=None if long else pictures[1]))
        next(cycle[1])
        cycle.append(cycle)

    def collecting(owner, name):
        work = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *given: (gc.collect(), work(*given))[1])

    gc.collect()
    gc.disable()
    try:
        if thread == "cache":
            collecting(disk_cache, "_digest")
        if thread == "tower":
            collecting(ImageEncoder, "encode")
        drop(long=thread != "cache")
        asked = ask(
            engine, "How many?", GREEDY, pictures[0], on_token=lambda _: thread == "engine" and gc.collect()
        ).wait()
        assert asked.reason == "length"
        deadline = time.monotonic() + 20
        while engine.metrics.running:
            assert time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        gc.enable()
    assert engine.metrics.failed_total == 0
    assert ask(engine, "How many?", GREEDY).wait().reason == "length"


def test_clients_that_come_and_go(open_engine, seeded_f32, ask, pictures):
    """Many threads, at random: every answer ends once, in one of the ways there are, and no place is lost."""
    engine = open_engine(seeded_f32, {"n_ctx": 384}, parallel=3, n_queued=4, n_positions=640, host_bytes=1 << 20)
    reasons, refused, lock = [], [], threading.Lock()

    def client(seed):
        chance = random.Random(seed)
        for _ in range(8):
            how = SamplingOptions(temperature=1, seed=seed, max_new_tokens=chance.choice((1, 5, 40, 150)))
            images = [pictures[chance.randrange(3)]] if chance.random() < 0.6 else []
            try:
                asked = ask(engine, "word " * chance.choice((1, 1, 60)), how, *images)
            except QueueFull:
                with lock:
                    refused.append(seed)
                threading.Event().wait(0.01)
                continue
            if chance.random() < 0.4:
                asked.answer.wait(chance.random() * 0.05)
                asked.answer.cancel()
            asked.wait()
            with lock:
                reasons.append(asked.reason)
            assert [token.finish_reason for token in asked.tokens[:-1]] == [None] * (len(asked.tokens) - 1)
            assert asked.answer.error is None

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reasons) + len(refused) == 80
    assert set(reasons) <= {"stop", "length", "cancelled"}
    metrics = engine.metrics
    assert (metrics.running, metrics.queued, metrics.failed_total) == (0, 0, 0)
    assert metrics.answers_total + metrics.cancelled_total == len(reasons)
    assert metrics.refused_total == len(refused)
    assert metrics.kv_positions <= metrics.kv_positions_max
    assert metrics.kept_bytes <= 1 << 20
    places = [ask(engine, f"Question {n}?", GREEDY) for n in range(7)]
    assert [asked.wait().reason for asked in places] == ["length"] * 7


def test_closing_while_clients_come(open_engine, seeded_f32, ask):
    engine = open_engine(seeded_f32, parallel=2, n_queued=50)
    asked, started = [], threading.Event()

    def client():
        while True:
            try:
                asked.append(ask(engine, "What is this?", GREEDY, on_token=lambda _: started.set()))
            except QueueFull:
                continue
            except EdgeLlavaError:
                return

    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert started.wait(30)
    engine.close()
    for thread in threads:
        thread.join()
    assert all(one.answer.wait(0) for one in asked)
    assert {one.reason for one in asked} <= {"length", "cancelled"}
