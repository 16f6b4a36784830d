from __future__ import annotations

import pytest

from edge_llava.runtime.dialogue.messages import Exchange, Message, read_messages

ADVICE = "A system message may come first; then 'user' and 'assistant' take turns."
NO_USER = "none of the messages is of role 'user'"


def said(*roles):
    return [Message(role, f"{role} {number}") for number, role in enumerate(roles, 1)]


def test_one_question():
    dialogue = read_messages(said("user"))
    assert (dialogue.system, dialogue.exchanges) == ("", (Exchange(Message("user", "user 1"), None),))


def test_questions_with_their_answers():
    messages = said("system", "user", "assistant", "user", "assistant", "user")
    dialogue = read_messages(messages)
    assert dialogue.system == "system 1"
    assert dialogue.exchanges == (
        Exchange(messages[1], "assistant 3"),
        Exchange(messages[3], "assistant 5"),
        Exchange(messages[5], None),
    )


@pytest.mark.parametrize(
    ("roles", "faults"),
    [
        ((), [NO_USER]),
        (("system",), [NO_USER]),
        (("assistant",), [NO_USER]),
        (("system", "assistant"), [NO_USER]),
        (("assistant", "assistant", "user"),
         ["message 2 is of role 'assistant', expected 'user'", "message 3 is of role 'user', expected 'assistant'"]),
        (("user", "system", "user"), ["message 2 is of role 'system', expected 'assistant'"]),
        (
            ("system", "system", "user"),
            ["message 2 is of role 'system', expected 'user'", "message 3 is of role 'user', expected 'assistant'"],
        ),
        (("user", "tool", "user"), ["message 2 is of role 'tool', expected 'assistant'"]),
    ],
)  # fmt: skip
def test_what_is_no_conversation(roles, faults):
    with pytest.raises(ValueError, match=r"^these messages are not a conversation:") as caught:
        read_messages(said(*roles))
    lines = str(caught.value).splitlines()
    assert lines[1:] == [*(f"  - {fault}" for fault in faults), ADVICE]


def test_a_last_message_of_the_assistant_begins_the_answer():
    messages = said("user", "assistant", "user", "assistant")
    dialogue = read_messages(messages)
    assert dialogue.exchanges == (Exchange(messages[0], "assistant 2"), Exchange(messages[2], None))
    assert dialogue.answer_start == "assistant 4"


def test_a_greeting_answers_an_empty_question():
    messages = said("system", "assistant", "user")
    dialogue = read_messages(messages)
    assert dialogue.exchanges == (Exchange(Message("user", ""), "assistant 2"), Exchange(messages[2], None))
    assert (dialogue.system, dialogue.answer_start) == ("system 1", "")
    both = read_messages(said("assistant", "user", "assistant"))
    assert (len(both.exchanges), both.exchanges[0].answer, both.answer_start) == (2, "assistant 1", "assistant 3")


@pytest.mark.parametrize("places", [(0,), (3, 2), (0, 5), (-1, 0), (0, 1, 2)])
def test_places_are_in_the_text(places):
    with pytest.raises(ValueError, match=r"message 1 has places \(.*\) for 2 images and 4 characters"):
        read_messages([Message("user", "text", (b"", b""), places)])


def test_only_users_show_pictures():
    with pytest.raises(ValueError, match=r"  - message 1 of role 'system' has images; only users show them\n"):
        read_messages([Message("system", "a", (b"",)), Message("user", "b", (b"",))])


def test_text_must_be_text():
    with pytest.raises(ValueError, match=r"^message 2 contains unpaired surrogates"):
        read_messages([Message("user", "a"), Message("assistant", "\ud83d"), Message("user", "b")])
