"""Conversations of different salts share nothing that was computed, and learn nothing about each other."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from edge_llava.runtime.dialogue.answer_history import AnswerHistory, KnownAnswer
from edge_llava.runtime.dialogue.messages import Message
from edge_llava.runtime.kv.host_cache import HostCache, KeptConversation
from edge_llava.runtime.options import SamplingOptions
from edge_llava.runtime.runs import TokenRun

GREEDY = SamplingOptions(temperature=0, max_new_tokens=4)
LONG = "What is on the table, and what is beside it? " * 8


@pytest.fixture(scope="module")
def image():
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def submit(engine, image, salt, text=LONG):
    return engine.submit([Message("user", text, (image,))], GREEDY, lambda token: None, salt=salt)


@pytest.mark.convert
def test_one_after_another(engine, image):
    answers = []
    for salt in ("a", "a", "b", "", "", "c", "a"):
        answers.append(submit(engine, image, salt))
        assert answers[-1].wait(60)
    known = [
        answer.n_prompt_tokens - 1 if is_known else 0
        for answer, is_known in zip(answers, (0, 1, 0, 0, 1, 0, 1), strict=True)
    ]
    assert [answer.n_cached_tokens for answer in answers] == known
    assert engine.metrics.images_encoded_total == 4
    assert [answer.timings().vision_s > 0 for answer in answers] == [n_known == 0 for n_known in known]


@pytest.mark.convert
def test_at_the_same_time(engine, image):
    """None waits for what another computes, and each image is encoded anew."""
    answers = [submit(engine, image, salt) for salt in ("a", "b", "c", "c")]
    assert all(answer.wait(60) for answer in answers)
    assert [bool(answer.n_cached_tokens) for answer in answers] == [False, False, False, True]
    assert engine.metrics.images_encoded_total == 3


@pytest.mark.convert
def test_what_was_put_away_is_not_shared_either(open_engine, seeded_f32, image):
    engine = open_engine(seeded_f32, parallel=1)
    for number in range(4):  # what is idle leaves the cache for these
        assert submit(engine, image, "a", f"{number} {LONG}").wait(60)
    assert engine.metrics.kept_conversations > 0
    again, other = submit(engine, image, "a", f"0 {LONG}"), submit(engine, image, "b", f"0 {LONG}")
    assert again.wait(60)
    assert other.wait(60)
    assert again.n_cached_tokens == again.n_prompt_tokens - 1
    assert other.n_cached_tokens == 0


@pytest.mark.convert
def test_answers_are_the_same(engine, image):
    texts = []
    for salt in ("", "a", "b"):
        tokens = []
        asked = engine.submit([Message("user", "What?", (image,))], GREEDY, tokens.append, salt=salt)
        assert asked.wait(60)
        texts.append([token.id for token in tokens])
    assert texts[0] == texts[1] == texts[2]


def test_an_answer_is_remembered_for_its_salt():
    said, conversation, answer = AnswerHistory(), [TokenRun((1, 2, 3))], KnownAnswer((4, 5), "")
    said.remember(conversation, "yes", answer, "a")
    assert said.find(conversation, "yes", "a") == answer
    assert said.find(conversation, "yes", "b") is None
    assert said.find(conversation, "yes") is None


def test_a_longer_conversation_replaces_none_of_another_salt():
    shelf = HostCache(1000)
    shelf.put(KeptConversation((1, 2), bytearray(10), "a"))
    shelf.put(KeptConversation((1, 2, 3), bytearray(10), "b"))
    assert len(shelf) == 2
    assert shelf.find((1, 2, 3), "a")[0] == 2
    assert shelf.find((1, 2, 3), "c") is None


def ask_alone(engine, image, text):
    """The answer, and what was known of its prompt."""
    answer = engine.submit([Message("user", text, (image,) if image else ())], GREEDY, lambda token: None, alone=True)
    assert answer.wait(60)
    return answer


@pytest.mark.convert
def test_questions_alone_share_the_image_and_nothing_behind_it(open_engine, seeded_f32, image):
    engine = open_engine(seeded_f32, parallel=1)
    first, second = (ask_alone(engine, image, f"{LONG}{number}") for number in (1, 2))
    assert first.n_cached_tokens == 0
    ends_with_image = first.n_prompt_tokens - len(engine.engine.language.tokenize(f"{LONG}", add_bos=False))
    assert first.n_image_tokens < second.n_cached_tokens < ends_with_image
    assert ask_alone(engine, image, f"{LONG}2").n_cached_tokens == second.n_cached_tokens  # even the same again
    assert ask_alone(engine, None, LONG).n_cached_tokens == ask_alone(engine, None, LONG).n_cached_tokens == 0


@pytest.mark.convert
def test_at_the_same_time_questions_alone_share_the_image_too(engine, image):
    asked = [
        engine.submit([Message("user", f"{LONG}{number}", (image,))], GREEDY, lambda token: None, alone=True)
        for number in range(3)
    ]
    assert all(answer.wait(60) for answer in asked)
    assert engine.metrics.images_encoded_total == 1
    assert asked[0].n_cached_tokens == 0
    assert asked[0].n_image_tokens < asked[1].n_cached_tokens == asked[2].n_cached_tokens


@pytest.mark.convert
def test_several_questions_alone_share_a_few_words_behind_the_image(open_engine, seeded_f32, image):
    n_cached = {}
    for n_parallel in (1, 4):
        engine = open_engine(seeded_f32, parallel=n_parallel)
        first, *others = (ask_alone(engine, image, f"{LONG}{number}") for number in range(3))
        assert first.n_cached_tokens == 0
        n_cached[n_parallel] = {answer.n_cached_tokens for answer in others}
    (of_one,), (of_several,) = n_cached.values()
    assert of_several == of_one + 8
