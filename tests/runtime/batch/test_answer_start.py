"""An answer whose beginning was given goes on as if the model had written that beginning itself."""

from __future__ import annotations

import dataclasses

import pytest

from edge_llava import demo
from edge_llava.errors import ContextOverflow
from edge_llava.runtime.dialogue.messages import Message, read_messages
from edge_llava.runtime.dialogue.past_turns import list_runs
from edge_llava.runtime.options import SamplingOptions

pytestmark = pytest.mark.convert
N_TOKENS = 16


@pytest.fixture
def other_engine(open_engine, seeded_f32):
    """The same model, which has answered nothing."""
    return open_engine(seeded_f32)


@pytest.fixture
def bias(engine):
    """bias(starts) -> biases that let the model choose among tokens of letters alone, which begin so."""
    pieces = [engine.engine.language.piece(token) for token in range(512)]

    def make(starts):
        ids = [id for id, piece in enumerate(pieces) if piece.startswith(starts) and piece.strip().isalpha()]
        assert len(ids) > 20
        return tuple((id, 100.0) for id in ids if max(pieces[id]) < 128)

    return make


@pytest.fixture
def words(bias):
    """Options for words of one token each: text alone says which tokens they were."""
    return SamplingOptions(temperature=0, max_new_tokens=N_TOKENS, frequency_penalty=2, logit_bias=bias(b" "))


def asked(question, *images, start=None):
    answer = [] if start is None else [Message("assistant", start)]
    return [Message("user", question, images), *answer]


@pytest.mark.parametrize("n_images", [0, 1, 2])
def test_greedy_tokens_are_those_of_an_uninterrupted_answer(engine, other_engine, ask, noise, words, n_images):
    """Cut after every token; an engine that has never computed the answer continues the text alone."""
    images = [noise(64, 48, seed=seed) for seed in range(n_images)]
    whole = ask(engine, asked("What is this?", *images), words).wait()
    assert len(set(whole.ids)) > 3
    for n in range(1, N_TOKENS):
        start = "".join(token.text for token in whole.tokens[:n])
        rest = ask(other_engine, asked("What is this?", *images, start=start), words).wait()
        assert rest.ids[: N_TOKENS - n] == whole.ids[n:]
        assert (start + rest.text).startswith(whole.text)
        assert rest.answer.n_tokens == N_TOKENS


def test_the_penalties_of_that_test_matter(engine, ask, words):
    plain = dataclasses.replace(words, frequency_penalty=0)
    assert (
        ask(engine, asked("What is this?"), plain).wait().ids != ask(engine, asked("What is this?"), words).wait().ids
    )


@pytest.mark.parametrize(("temperature", "stop"), [(0, ()), (1, ()), (1, ("e", "1", "w"))])
def test_an_answer_that_was_cut_goes_on_in_its_own_tokens(engine, ask, noise, bias, temperature, stop):
    """Letters, as no tokenizer would write them: remembered, they are continued as they were sampled."""
    image, letters = noise(64, 48, seed=5), bias(b"")
    options = SamplingOptions(temperature, seed=1, max_new_tokens=9, stop=stop, logit_bias=letters)
    first = ask(engine, asked("Why?", image), options).wait()
    greedy = SamplingOptions(temperature=0, max_new_tokens=9, logit_bias=letters)
    rest = ask(engine, asked("Why?", image, start=first.text), greedy).wait()
    n_prompt = first.answer.n_prompt_tokens
    conversation = list_runs(engine._planner.plan(read_messages(asked("Why?", image))))
    kept = list(engine._planner.history.find(conversation, first.text + rest.text).ids)
    if not stop:
        assert kept == [*first.ids, *rest.ids]
        assert rest.answer.n_prompt_tokens == n_prompt + 9
        assert rest.answer.n_cached_tokens == n_prompt + 8
    if temperature == 0:
        longer = SamplingOptions(temperature=0, max_new_tokens=18, logit_bias=letters)
        assert ask(engine, asked("Why?", image), longer).wait().ids == kept
    if temperature == 1:
        assert engine.engine.language.tokenize_within(f" {first.text}") != first.ids
    later = [*asked("Why?", image, start=first.text + rest.text), Message("user", "And?")]
    assert ask(engine, later, greedy).wait().answer.n_cached_tokens >= n_prompt + len(kept) - 1


@pytest.mark.parametrize("blank", ["", " ", "\n \t"])
def test_a_blank_beginning_is_none(engine, ask, words, blank):
    assert ask(engine, asked("What?", start=blank), words).wait().ids == ask(engine, asked("What?"), words).wait().ids


def test_a_space_at_the_end_belongs_to_the_next_word(engine, ask, words):
    (word, *_) = (token.text for token in ask(engine, asked("What?"), words).wait().tokens)
    plain = ask(engine, asked("What?", start=word), words).wait()
    spaced = ask(engine, asked("What?", start=f"{word}  "), words).wait()
    assert spaced.ids == plain.ids
    assert plain.text == f" {spaced.text}"


def test_a_beginning_that_does_not_fit(engine, ask, words):
    with pytest.raises(ContextOverflow, match=r"earlier, .* text, 0 for 0 images, 1 answer"):
        ask(engine, asked("What?", start="word " * 9000), words)
    assert ask(engine, asked("What?"), words).wait().reason == "length"


def test_a_grammar_holds_for_a_whole_answer(engine, ask):
    with pytest.raises(ValueError, match="it cannot continue one that the messages begin"):
        ask(engine, asked("What?", start="{"), SamplingOptions(grammar='root ::= "{}"'))


def test_images_between_texts_are_shared_from_the_cache(engine, ask, noise, words):
    images = (noise(64, 48, seed=1), noise(64, 48, seed=2))
    placed = [Message("user", "First:\nSecond:\nWhich?", images, (7, 15))]
    first = ask(engine, placed, words).wait()
    again = ask(engine, placed, words).wait()
    assert again.ids == first.ids
    assert again.answer.n_cached_tokens == first.answer.n_prompt_tokens - 1
    n_opening = len(list_runs(engine._planner.plan(read_messages(placed)))[0].ids)
    swapped = [Message("user", "First:\nSecond:\nWhich?", images[::-1], (7, 15))]
    assert ask(engine, swapped, words).wait().answer.n_cached_tokens == n_opening


def test_a_greeting_comes_before_the_first_question(engine, ask, words):
    greeted = [Message("assistant", "Hello!"), Message("user", "What?")]
    told = [Message("user", ""), *greeted]
    assert ask(engine, greeted, words).wait().ids == ask(engine, told, words).wait().ids


@pytest.mark.slow
@pytest.mark.parametrize("n_images", [1, 2])
def test_sentences_of_a_trained_model_go_on_from_every_word(open_engine, ask, convert_to, n_images):
    """The demo's description of its images, cut before every word, continued by an engine that has never written it."""
    bundle = convert_to(demo.CHECKPOINT, quant="F32")
    engine, other_engine = open_engine(bundle), open_engine(bundle)
    images = [path.read_bytes() for path in sorted(demo.PICTURES.glob("*.jpg"))[:n_images]]
    greedy = SamplingOptions(temperature=0, max_new_tokens=60)
    opening = "The picture shows"
    whole = opening + ask(engine, asked("Describe the picture.", *images, start=opening), greedy).wait().text
    words = whole.split(" ")
    assert len(words) > 20
    for n in range(3, len(words)):
        start = " ".join(words[:n])
        for given in (start, f"{start} "):
            rest = ask(other_engine, asked("Describe the picture.", *images, start=given), greedy).wait()
            assert given + rest.text == whole
            assert rest.reason == "stop"
