"""Conversations that go on when the context is full: what is dropped, and that nothing else changes."""

from __future__ import annotations

import dataclasses

import pytest

from edge_llava.errors import ContextOverflow
from edge_llava.runtime.dialogue.past_turns import list_runs, room_for_prompt, turns_to_drop
from edge_llava.runtime.options import SamplingOptions
from edge_llava.runtime.runs import list_positions

GREEDY = SamplingOptions(temperature=0, max_new_tokens=8)


@pytest.mark.parametrize(
    ("sizes", "have_images", "n_positions", "dropped"),
    [
        ([10, 10, 10], "...", 30, []),
        ([10, 10, 10], "...", 29, [0]),
        ([10, 10, 10], "...", 10, [0, 1]),
        ([10, 10, 10], "...", 5, [0, 1]),  # not enough, and the question itself stays
        ([99, 10, 10, 10], "i...", 120, [1]),
        ([99, 10, 10, 10], "i...", 20, [1, 2]),  # the newest image stays, whatever is missing
        ([10, 99, 10, 99, 10], ".i.i.", 210, [0, 2]),
        ([10, 99, 10, 99, 10], ".i.i.", 200, [0, 1, 2]),
        ([99, 10, 99], "i.i", 100, [0, 1]),  # a question with an image of its own needs no earlier one
        ([300], "i", 10, []),
    ],
)
def test_what_is_dropped(sizes, have_images, n_positions, dropped):
    assert turns_to_drop(sizes, [letter == "i" for letter in have_images], n_positions) == dropped


def test_room_for_prompt():
    assert (room_for_prompt(1024, 8), room_for_prompt(1024, 4096)) == (1016, 768)


@pytest.fixture
def alone(forget, ids):
    """alone(model, chat, question) -> the answer's ids where exactly the turns that are left are computed from nothing.

    In a session of their own.
    """

    def run(model, chat, question):
        fresh = model.session(GREEDY)
        fresh._past = model._planner._plan_again(chat._past[:-1], model._planner.template)
        forget(model)
        answer = ids(fresh.ask(question))
        assert fresh.timings.cached_tokens == 0
        assert said(fresh) == said(chat)
        return answer

    return run


def said(chat):
    """What each position of a session's conversation stands for."""
    return list_positions(list_runs(chat._past))


@pytest.mark.convert
@pytest.mark.parametrize("with_image", [True, False])
def test_a_conversation_of_twenty_questions(open_model, seeded_f32, noise, ids, with_image, alone):
    model = open_model(seeded_f32, n_ctx=256)
    chat, before = model.session(GREEDY, on_full="drop-oldest"), 0
    for n in range(20):
        question = f"Question {n}: what is it that you see?"
        answer = ids(chat.ask(question, image=noise(64, 48) if with_image and n == 0 else None))
        assert len(answer) == 8  # there is always room for it
        assert chat.n_positions <= 256
        assert len(chat.images) == with_image
        assert chat.n_dropped + len(chat._past) == n + 1
        assert chat.n_dropped >= before
        if chat.n_dropped > before and before % 2 == 0:
            cached = chat.timings.cached_tokens
            n_opening = len(model.engine.language.tokenize(model._planner.template.opening[0], add_bos=True))
            assert cached >= (n_opening + 64 if with_image else n_opening - 1)  # what did not move
            assert answer == alone(model, chat, question)
        before = chat.n_dropped
    assert chat.n_dropped > 5
    pieces = [model.engine.language.piece(i) for i in said(chat) if isinstance(i, int)]
    shown = b"".join(pieces).decode(errors="replace")
    assert "A chat between" in shown
    assert ("Question 0" in shown) == with_image
    assert "Question 1:" not in shown


@pytest.mark.convert
def test_dropping_where_an_answer_ended_inside_a_token(open_model, seeded_f32, ids, alone):
    """The text of an answer that is not in it as tokens goes with the answer."""
    model = open_model(seeded_f32, n_ctx=160)
    chat = model.session(
        dataclasses.replace(GREEDY, grammar='root ::= "one two###three"', stop=("###",)), on_full="drop-oldest"
    )
    for n in range(8):
        ids(chat.ask(f"Question {n}?"))
    chat.options = GREEDY
    answer = ids(chat.ask("And now?"))
    assert chat.n_dropped > 0
    assert answer == alone(model, chat, "And now?")


@pytest.mark.convert
def test_what_does_not_fit_even_so_changes_nothing(open_model, seeded_f32, noise, ids):
    model = open_model(seeded_f32, n_ctx=256)
    chat = model.session(GREEDY, on_full="drop-oldest")
    ids(chat.ask("What is this?", image=noise(64, 48)))
    ids(chat.ask("And more?"))
    n_positions, history = chat.n_positions, said(chat)
    with pytest.raises(ContextOverflow):
        chat.ask("word " * 150)
    with pytest.raises(ContextOverflow):
        chat.ask("What?", image=[noise(64, 48, seed=n) for n in range(4)])
    assert (chat.n_positions, chat.n_dropped, said(chat)) == (n_positions, 0, history)
    answer = chat.ask("word " * 28)  # would drop the second question
    chat.cancel()
    list(answer)
    assert (chat.n_positions, chat.n_dropped) == (n_positions, 0)
    assert len(ids(chat.ask("word " * 28))) == 8
    assert chat.n_dropped == 1
    chat.clear()
    assert (chat.n_dropped, chat.images) == (0, [])


@pytest.mark.convert
def test_newer_images_replace_older_ones(open_model, seeded_f32, noise, ids):
    model = open_model(seeded_f32, n_ctx=256)
    chat = model.session(GREEDY, on_full="drop-oldest")
    for n in range(5):
        ids(chat.ask("What is this?", image=noise(64, 48, seed=n)))
    assert [image.key for image in chat.images][-1] == model.tower.place(noise(64, 48, seed=4)).key
    assert chat.n_dropped + len(chat.images) == 5
    assert chat.n_dropped >= 3


@pytest.mark.convert
def test_other_words(model):
    with pytest.raises(ValueError, match="on_full must be 'error' or 'drop-oldest', not 'drop'"):
        model.session(GREEDY, on_full="drop")
