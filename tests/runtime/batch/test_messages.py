from __future__ import annotations

import pytest

from edge_llava.runtime.batch.messages import Exchange, Message, read_messages

ADVICE = "A system message may come first; then 'user' and 'assistant' take turns, and 'user' is the last."


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
        ((), ["the last message must be of role 'user'"]),
        (("system",), ["the last message must be of role 'user'"]),
        (("user", "assistant"), ["the last message must be of role 'user'"]),
        (("assistant",), ["message 1 is of role 'assistant', expected 'user'"]),
        (("user", "system", "user"), ["message 2 is of role 'system', expected 'assistant'"]),
        (
            ("system", "system", "user"),
            ["message 2 is of role 'system', expected 'user'", "message 3 is of role 'user', expected 'assistant'",
             "the last message must be of role 'user'"],
        ),
        (("user", "tool", "user"), ["message 2 is of role 'tool', expected 'assistant'"]),
    ],
)  # fmt: skip
def test_what_is_no_conversation(roles, faults):
    with pytest.raises(ValueError, match=r"^these messages are no conversation:") as caught:
        read_messages(said(*roles))
    lines = str(caught.value).splitlines()
    assert lines[1:] == [*(f"  - {fault}" for fault in faults), ADVICE]


def test_only_users_show_pictures():
    with pytest.raises(ValueError, match=r"  - message 1 of role 'system' has images; only users show them\n"):
        read_messages([Message("system", "a", (b"",)), Message("user", "b", (b"",))])


def test_text_must_be_text():
    with pytest.raises(ValueError, match=r"^message 2 holds halves of characters"):
        read_messages([Message("user", "a"), Message("assistant", "\ud83d"), Message("user", "b")])
