"""What is computed before the question is asked: the same answer sooner, and in nobody's way."""

from __future__ import annotations

import threading
from contextlib import contextmanager

import pytest

import edge_llava
from edge_llava import SamplingOptions
from edge_llava.errors import ContextOverflow, ImageError, QueueFull
from edge_llava.runtime.dialogue.messages import Message
from edge_llava.runtime.runs import ImageRun
from edge_llava.runtime.vision.image_encoder import ImageEncoder

GREEDY = SamplingOptions(temperature=0, max_new_tokens=12)
LONG = SamplingOptions(temperature=0, max_new_tokens=800, logit_bias=((2, -100.0),))
QUESTION = "What is shown?"


@pytest.fixture
def one(open_engine, seeded_f32):
    """The F32 demo, open for one at a time, as `chat` opens it."""
    return open_engine(seeded_f32, parallel=1)


@pytest.fixture
def held_tower(monkeypatch):
    """A context in which the tower stops inside an image until it is left."""

    @contextmanager
    def hold():
        release, entered, encode = threading.Event(), threading.Event(), ImageEncoder.encode

        def wait(self, *arguments, **options):
            entered.set()
            assert release.wait(30)
            return encode(self, *arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(ImageEncoder, "encode", wait)
            try:
                yield entered
            finally:
                release.set()

    return hold


def answer(session, image=None, question=QUESTION):
    return [token.id for token in session.ask(question, image=image)]


@pytest.fixture
def expected(one, noise, forget):
    """The answers about three images, and about none; nothing of them is left computed."""
    images = [noise(60, 40, seed) for seed in range(3)]
    answers = [answer(one.session(GREEDY), image) for image in images]
    alone = answer(one.session(GREEDY))
    forget(one)
    return images, answers, alone


def test_a_question_continues_what_was_prepared(one, expected):
    images, answers, _ = expected
    n_encoded, session = one.metrics.images_encoded_total, one.session(GREEDY)
    prepared = session.prepare(images[0])
    assert prepared.wait(30)
    assert (prepared.finish_reason, prepared.n_tokens) == ("stop", 0)
    assert answer(session, images[0]) == answers[0]
    assert session.timings.vision_s == 0
    assert session.timings.prefill_tokens < 30 < session.timings.cached_tokens
    assert one.metrics.images_encoded_total == n_encoded + 1


def test_a_later_image_is_prepared_after_the_conversation(one, expected):
    images, _, _ = expected
    plain, session = one.session(GREEDY), one.session(GREEDY)
    answer(plain, images[0])
    wanted = answer(plain, images[1], "And here?")
    answer(session, images[0])
    assert session.prepare(images[1]).wait(30)
    assert answer(session, images[1], "And here?") == wanted
    assert session.timings.vision_s == 0


@pytest.mark.parametrize("n_parallel", [1, 2])
def test_a_question_at_once_joins_the_work_that_runs(open_engine, seeded_f32, expected, held_tower, n_parallel):
    images, answers, _ = expected
    model = open_engine(seeded_f32, parallel=n_parallel)
    session = model.session(GREEDY)
    with held_tower() as entered:
        session.prepare(images[0])
        assert entered.wait(30)
        tokens = session.ask(QUESTION, image=images[0])
        asked = threading.Thread(target=lambda: got.extend(token.id for token in tokens))
        got: list[int] = []
        asked.start()
    asked.join(30)
    assert got == answers[0]
    assert model.metrics.images_encoded_total == 1


def test_others_are_not_kept_waiting(one, expected, held_tower):
    """Nor is the question that has its image already."""
    images, answers, alone = expected
    asker, other = one.session(GREEDY), one.session(GREEDY)
    embedding = one.embed_image(images[1])
    with held_tower() as entered:
        prepared = asker.prepare(images[0])
        assert entered.wait(30)
        assert answer(other) == alone
        assert answer(other, embedding) != answers[0]
        assert prepared.wait(30)
        assert prepared.finish_reason == "cancelled"
    assert answer(asker, images[0]) == answers[0]


@pytest.mark.parametrize("image", [1, None])
def test_a_question_about_something_else_drops_it(one, expected, held_tower, image):
    images, answers, alone = expected
    session = one.session(GREEDY)
    prepared = session.prepare(images[0])
    wanted = alone if image is None else answers[image]
    assert answer(session, None if image is None else images[image]) == wanted
    assert prepared.wait(30)


def test_it_ends_with_another_and_with_what_it_belongs_to(one, expected, held_tower):
    images, _, _ = expected
    session = one.session(GREEDY)
    for end in (lambda: session.prepare(images[1]), lambda: session.prepare(None), session.clear):
        with held_tower() as entered:
            prepared = session.prepare(images[0])
            assert entered.wait(30)
            end()
            assert prepared.wait(30)
            assert prepared.finish_reason == "cancelled"
    with held_tower():
        prepared = session.prepare(images[2])
    one.close()
    assert prepared.wait(30)


def test_what_is_wrong_is_said_at_once(open_engine, seeded_f32, expected, held_tower, tmp_path):
    images, _, _ = expected
    model = open_engine(seeded_f32, parallel=1, n_queued=0)
    session = model.session(GREEDY)
    with pytest.raises(ImageError):
        session.prepare(tmp_path / "none.jpg")
    with held_tower() as entered:
        session.prepare(images[0])
        assert entered.wait(30)
        with pytest.raises(QueueFull):
            model.prepare([Message("user", "", (images[1],))])
        tokens = model.session(GREEDY).ask(QUESTION)  # an answer has its own room
        assert next(tokens).id is not None
        tokens.close()


def test_clients_that_keep_their_conversation(one, expected, ask):
    images, _, _ = expected
    assert one.prepare([Message("user", "")]) is None
    first = [Message("user", "What?", (images[0],)), Message("assistant", "A dog.")]
    assert one.prepare([*first, Message("user", "", (images[1],))], salt="a").wait(30)
    n_encoded = one.metrics.images_encoded_total
    asked = ask(one, [*first, Message("user", "And here?", (images[1],))], GREEDY).wait()
    assert asked.answer.n_cached_tokens == 0  # of another salt
    assert one.metrics.images_encoded_total == n_encoded + 2
    taken = []
    again = one.submit([*first, Message("user", "And here?", (images[1],))], GREEDY, taken.append, salt="a")
    assert again.wait(30)
    assert again.n_cached_tokens > again.n_image_tokens > 0
    assert [token.id for token in taken] == asked.ids


def test_one_that_its_question_overtook_leaves_the_answer_alone(one, expected):
    """Both waited for a place, and the question had it first."""
    images, answers, _ = expected
    other, asker = one.session(LONG), one.session(GREEDY)
    busy = other.ask("Wait.")
    next(busy)
    prepared = asker.prepare(images[0])
    tokens: list[int] = []
    reading = threading.Thread(target=lambda: tokens.extend(answer(asker, images[0])))
    reading.start()
    busy.close()
    reading.join(30)
    assert prepared.wait(30)
    assert tokens == answers[0]
    next_one = list(asker.ask("And?"))
    assert next_one
    assert asker.timings.cached_tokens > 64 + len(tokens)  # the answer is still there


def test_an_answer_s_image_comes_before_those_that_only_wait(open_engine, seeded_f32, expected, monkeypatch, ask):
    images, answers, _ = expected
    model = open_engine(seeded_f32, parallel=1)
    order, release, encode = [], threading.Event(), ImageEncoder.encode

    def note(self, image, key, *rest):
        order.append(key)
        assert release.wait(30)
        return encode(self, image, key, *rest)

    monkeypatch.setattr(ImageEncoder, "encode", note)
    keys = [model.tower.key(model.open_image(image)) for image in images]
    model.prepare([Message("user", "", (images[1],))])
    for image in images[1:]:
        model.prepare([Message("user", "", (image,))])
    asked = ask(model, QUESTION, GREEDY, images[0])
    release.set()
    assert asked.wait().ids == answers[0]
    assert order.index(keys[0]) <= 1  # behind the one that was being encoded, at most


@pytest.mark.parametrize("n_parallel", [2, 3])
def test_nothing_is_prepared_while_an_answer_runs(open_engine, seeded_f32, expected, ask, n_parallel):
    images, answers, _ = expected
    model, started = open_engine(seeded_f32, parallel=n_parallel), threading.Event()
    running = ask(model, "Wait.", LONG, on_token=lambda _: started.set())
    assert started.wait(30)
    prepared = model.prepare([Message("user", "", (images[0],))])
    same = model.prepare([Message("user", "", (images[0],))])
    n_looks = 0
    while True:
        n_encoded = model.metrics.images_encoded_total
        if running.answer.wait(0.002):
            break
        n_looks += 1
        assert n_encoded == 0
    assert n_looks
    assert prepared.wait(30)
    assert same.wait(30)
    assert model.metrics.images_encoded_total == 1
    assert answer(model.session(GREEDY), images[0]) == answers[0]


def test_an_image_of_two_questions_is_waited_for_by_both(one, expected, monkeypatch):
    """An earlier image is in the preparation and in the conversation: whichever ends must not cancel the other's."""
    images, _, _ = expected
    session, requests, submit = one.session(GREEDY), [], one.engine.submit
    answer(session, images[0])
    monkeypatch.setattr(one.engine, "submit", lambda request, take: requests.append(request) or submit(request, take))
    session.prepare(images[1])
    earlier, _ = [run for run in requests[0].runs if isinstance(run, ImageRun)]
    (own,) = session.images
    assert earlier is not own
    assert earlier.identity == own.identity
    session.prepare(None)


def test_first_images_are_prepared(seeded_f32, expected):
    images, answers, _ = expected
    with edge_llava.load(seeded_f32, edge_llava.EngineOptions(), first_images=images[:1]) as model:
        session = model.session(GREEDY)
        session.prepare(images[0]).wait(30)
        assert answer(session, images[0]) == answers[0]
        assert session.timings.vision_s == 0
        assert model.metrics.images_encoded_total == 1
        assert (model.metrics.answers_total, model.metrics.running) == (1, 0)


def test_first_images_that_do_not_fit_are_the_questions_fault(seeded_f32, noise):
    images = [noise(60, 40, seed) for seed in range(20)]
    with edge_llava.load(seeded_f32, edge_llava.EngineOptions(), first_images=images) as model:
        with pytest.raises(ContextOverflow):
            next(model.session(GREEDY).ask(QUESTION, image=images))
        assert answer(model.session(GREEDY))
