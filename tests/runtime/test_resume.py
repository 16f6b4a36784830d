"""A session that continues a conversation which is given as messages."""

from __future__ import annotations

import pytest

from edge_llava.errors import ContextOverflow
from edge_llava.runtime.dialogue.messages import Message
from edge_llava.runtime.options import SamplingOptions

GREEDY = SamplingOptions(temperature=0, max_new_tokens=8)
SYSTEM = "Answer in one word."


def answer(session, question, image=None):
    return [token.id for token in session.ask(question, image=image)]


@pytest.fixture
def pictures(noise):
    return [noise(64, 48, seed=seed) for seed in range(2)]


def test_a_resumed_conversation_is_the_one_that_was_had(model, pictures):
    had = [Message("user", "What is this?", (pictures[0],)), Message("assistant", "It is a table.")]
    session = model.session(GREEDY)
    session.resume(had)
    assert len(session.images) == 1
    ids = answer(session, "And now?")
    assert ids != answer(model.session(GREEDY), "And now?", pictures[0])
    of_messages: list[int] = []
    model.submit([*had, Message("user", "And now?")], GREEDY, lambda token: of_messages.append(token.id)).wait()
    assert ids == of_messages
    assert answer(session, "Compare them.", pictures[1])
    assert len(session.images) == 2


def test_a_system_text_stays_and_takes_the_templates_place(model, pictures):
    session = model.session(GREEDY)
    own = session.show_prompt("What?")
    session.resume([Message("system", SYSTEM)])
    for _ in range(2):
        shown = session.show_prompt("What?")
        assert SYSTEM in shown
        assert "curious human" in own
        assert "curious human" not in shown
        session.clear()
    of_messages: list[int] = []
    model.submit(
        [Message("system", SYSTEM), Message("user", "What?", (pictures[0],))],
        GREEDY,
        lambda token: of_messages.append(token.id),
    ).wait()
    assert answer(session, "What?", pictures[0]) == of_messages
    session.resume([])
    assert session.show_prompt("What?") == own


def test_the_system_text_stays_when_questions_are_dropped(open_model, seeded_f32):
    session = open_model(seeded_f32, n_ctx=96).session(GREEDY, on_full="drop-oldest")
    session.resume([Message("system", SYSTEM)])
    for _ in range(6):
        answer(session, "And what else is to be seen here?")
    assert session.n_dropped > 0
    first = session._past[0].runs[0]
    pieces = b"".join(session._engine.language.piece(token, special=True) for token in first.ids)
    assert SYSTEM in pieces.decode()


def test_what_is_no_such_conversation_changes_nothing(open_model, seeded_f32):
    session = open_model(seeded_f32, n_ctx=96).session(GREEDY)
    session.resume([Message("user", "What?"), Message("assistant", "A table.")])
    n_positions = session.n_positions
    for messages in (
        [Message("user", "What?")],
        [Message("assistant", "A greeting."), Message("assistant", "Another.")],
        [Message("user", "What?"), Message("user", "What?")],
        [Message("system", "\udc80")],
    ):
        with pytest.raises(ValueError, match=r"not a conversation|not valid text"):
            session.resume(messages)
    long = [Message("user", "word " * 40), Message("assistant", "word " * 40)] * 2
    with pytest.raises(ContextOverflow):
        session.resume(long)
    assert session.n_positions == n_positions
    session.on_full = "drop-oldest"
    session.resume([Message("user", "word " * 10), Message("assistant", "word " * 10)] * 4)
    assert session.n_dropped > 0
