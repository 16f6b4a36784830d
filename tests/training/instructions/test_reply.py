"""Parsing replies strictly, and distinguishing a leak from an ordinary word."""

from __future__ import annotations

import pytest

from edge_llava.training.instructions.conversations import Turn
from edge_llava.training.instructions.leaks import find_leak
from edge_llava.training.instructions.phrasings import BRIEF, DETAIL
from edge_llava.training.instructions.reply import Rejection, format_reply, parse_reply

PAIR = "Question:\nWhat is it?\n===\nAnswer:\nA dog."
MORE = f"{PAIR}\n===\nQuestion:\nIs it wet?\n===\nAnswer:\nYes.\n\nIt swam."
TURNS = (Turn("What is it?", "A dog."), Turn("Is it wet?", "Yes.\n\nIt swam."))


@pytest.mark.parametrize(
    "text",
    [
        MORE,
        f"\n{MORE}\n",
        MORE.replace("\n", "\r\n"),
        MORE.replace("===", " === "),
        MORE.replace("Question:\n", "Question: ").replace("Answer:\n", "answer: "),
        f"{MORE}\n===",
        f"<think>\nA dog? The captions say so.\n===\n</think>\n{MORE}",
    ],
)
def test_conversation(text: str) -> None:
    assert parse_reply(text, "conversation", "") == TURNS


def test_reasoning_and_detail() -> None:
    assert parse_reply(PAIR, "reasoning", "") == TURNS[:1]
    assert parse_reply("  A dog.\n\nIt is wet.\n", "detail", "Describe it.") == (
        Turn("Describe it.", "A dog.\n\nIt is wet."),
    )


@pytest.mark.parametrize("response_type", ["conversation", "reasoning", "detail"])
def test_what_is_formatted_is_parsed(response_type: str) -> None:
    turns = TURNS if response_type == "conversation" else TURNS[1:]
    assert parse_reply(format_reply(turns, response_type), response_type, turns[0].question) == turns


@pytest.mark.parametrize(
    ("text", "reason", "detail"),
    [
        ("", "no text", ""),
        (" \n ", "no text", ""),
        (f"{PAIR} \ud83d", "no text", ""),
        ("A dog.", "odd number of parts", "1"),
        (f"{PAIR}\n===\nQuestion:\nAnd?", "odd number of parts", "3"),
        (f"===\n{PAIR}", "odd number of parts", "3"),
        (PAIR.replace("A dog.", ""), "empty part", "part 2"),
        (PAIR.replace("What is it?\n", "\n"), "empty part", "part 1"),
        (f"{PAIR}\n===\n\n===\n", "odd number of parts", "3"),
        (PAIR.replace("Question:\n", ""), "label missing", "part 1 does not begin with 'Question:'"),
        (PAIR.replace("Answer:", "Reply:"), "label missing", "part 2 does not begin with 'Answer:'"),
        (PAIR.replace("Answer:", "Question:"), "label missing", "part 2 does not begin with 'Answer:'"),
        (
            MORE.replace("A dog.\n===\n", "A dog.\n").replace("wet?\n===\n", "wet?\n"),
            "separator missing",
            "part 2 contains another label",
        ),
        (PAIR.replace("===", "===="), "odd number of parts", "1"),
        (PAIR.replace("A dog.", "An <image>."), "contains the image marker", ""),
        (PAIR.replace("A dog.", "The caption says a dog."), "betrays its source", "captions: 'caption'"),
        (PAIR.replace("What is it?", "What do the captions say?"), "betrays its source", "captions: 'captions'"),
        (f"<think>{PAIR}", "label missing", "part 1 does not begin with 'Question:'"),
    ],
)
def test_rejected(text: str, reason: str, detail: str) -> None:
    assert parse_reply(text, "conversation", "") == Rejection(reason, detail)


@pytest.mark.parametrize(
    ("text", "response_type", "reason"),
    [
        (MORE, "reasoning", "more than one question"),
        (PAIR, "detail", "labels in a description"),
        ("A dog.\n===\nA cat.", "detail", "labels in a description"),
        ("A dog at [0.1, 0.2, 0.3, 0.4].", "detail", "betrays its source"),
        ("<think>hm</think>", "detail", "empty part"),
    ],
)
def test_rejected_as_another_type(text: str, response_type: str, reason: str) -> None:
    found = parse_reply(text, response_type, "Describe it.")
    assert isinstance(found, Rejection)
    assert found.reason == reason


@pytest.mark.parametrize(
    "text",
    [
        "As the caption says, a dog.",
        "The Captions mention a dog.",
        "Its bounding box is small.",
        "The bounding-boxes overlap.",
        "The boundingbox is large.",
        "The coordinates of the dog are low.",
        "Going by its coordinates, the dog is left.",
        "The x-coordinate is small.",
        "Judging from coordinates 0.1 to 0.2, it is left.",
        "Coordinates: 0.1",
        "The dog is at [0.12, 0.3, 0.5, 0.77].",
        "The dog [0.5] is left.",
        "The dog is at (0.12, 0.3).",
        "Based on the provided information, it is a dog.",
        "Provided information suggests a dog.",
        "It is a dog. Given descriptions agree.",
        "From the given text it is a dog.",
        "The provided image description names a dog.",
        "According to the information provided, it barks.",
        "Based on information given, it barks.",
        "According to the description, it barks.",
        "Based on the sentences, it barks.",
        "The description mentions a dog.",
        "These sentences describe a dog.",
        "As an AI, I guess a dog.",
        "I am a language model.",
        "I cannot see the image, but it is a dog.",
        "I'm unable to view this picture.",
        "No supplied details name it.",
    ],
)
def test_leaks(text: str) -> None:
    assert find_leak(text) is not None


@pytest.mark.parametrize(
    "text",
    [
        "A cardboard box stands on the table, and two boxes under it.",
        "A boxer waits in the ring; the boundary of the field is white.",
        "The players coordinate their moves, and the coach coordinates them.",
        "Her coordinated outfit is blue.",
        "The text on the sign says STOP.",
        "According to the text on the sign, one must stop.",
        "Based on the text written above the door, it is a bakery.",
        "The sign provided information about the park.",
        "The guide provided details to the tourists.",
        "He has given information to the police.",
        "The board gives information about the train.",
        "A list of players (7, 10 and 23) hangs on the wall.",
        "Players (7, 10) run.",
        "The clock shows 10:15, the house number is 12.",
        "The dog weighs 3.5 kilograms (7.7 pounds).",
        "A captain stands on the bridge.",
        "I can't see the driver's face from here.",
        "One cannot see the sun in this picture.",
        "The context of the scene is a wedding, given the white dress.",
        "Given the rain, the street is wet.",
        "The people provided with helmets are safe.",
        "The picture shows a man reading a long description of a painting.",
        "Two sentences are written on the blackboard.",
        "The data centre has many lights.",
    ],
)
def test_ordinary_words(text: str) -> None:
    assert find_leak(text) is None


def test_our_own_questions_are_clean() -> None:
    assert [text for text in (*DETAIL, *BRIEF) if find_leak(text)] == [BRIEF[2]], "a caption is asked for"
