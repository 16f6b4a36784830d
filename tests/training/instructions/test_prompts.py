"""The prompts: their worked examples follow the form and the rules that they teach."""

from __future__ import annotations

import pytest

from edge_llava.training.instructions.annotation import AnnotatedImage, Box
from edge_llava.training.instructions.context import format_context
from edge_llava.training.instructions.conversations import RESPONSE_TYPES
from edge_llava.training.instructions.prompts import build_messages
from edge_llava.training.instructions.reply import parse_reply

IMAGE = AnnotatedImage("a", "a.jpg", ("A dog.",), (Box("dog", 0.1, 0.2, 0.3, 0.4),))
N_EXAMPLES = {"conversation": 2, "detail": 3, "reasoning": 3}


@pytest.mark.parametrize("response_type", RESPONSE_TYPES)
def test_messages(response_type: str) -> None:
    messages = build_messages(IMAGE, response_type)
    roles = [message["role"] for message in messages]
    assert roles == ["system", *["user", "assistant"] * N_EXAMPLES[response_type], "user"]
    assert messages[-1]["content"] == format_context(IMAGE, response_type)
    assert {*messages[0], *messages[-1]} == {"role", "content"}


@pytest.mark.parametrize("response_type", RESPONSE_TYPES)
def test_examples_would_be_accepted(response_type: str) -> None:
    for message in build_messages(IMAGE, response_type):
        if message["role"] == "assistant":
            turns = parse_reply(message["content"], response_type, "Describe it.")
            assert isinstance(turns, tuple)
            assert (len(turns) >= 5) == (response_type == "conversation")


@pytest.mark.parametrize("response_type", RESPONSE_TYPES)
def test_examples_show_the_context_as_it_will_come(response_type: str) -> None:
    contexts = [m["content"] for m in build_messages(IMAGE, response_type) if m["role"] == "user"][:-1]
    for context in contexts:
        captions, _, boxes = context.partition("\n\n")
        assert len(captions.split("\n")) == 5
        assert (len(boxes.split("\n")) >= 3) == (response_type != "conversation")
        for line in boxes.split("\n") if boxes else ():
            _, _, corners = line.partition(": ")
            left, top, right, bottom = (float(number) for number in corners.strip("[]").split(", "))
            assert 0 <= left < right <= 1
            assert 0 <= top < bottom <= 1


def test_system_messages_ask_for_the_form() -> None:
    for response_type in RESPONSE_TYPES:
        system = build_messages(IMAGE, response_type)[0]["content"]
        assert ("===" in system) == (response_type != "detail")
        assert 150 < len(system.split()) < 300
