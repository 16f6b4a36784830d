"""A teacher's reply: questions and answers as text. A reply that violates the form is rejected, never repaired.

    Question:
    What is the dog doing?
    ===
    Answer:
    It sleeps.

A conversation has several such pairs, reasoning has one, a detailed description is plain text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from edge_llava.home.json_files import is_text
from edge_llava.training.instructions.conversations import IMAGE_MARKER, Turn
from edge_llava.training.instructions.leaks import find_leak

_SEPARATOR = "==="
_LABELS = ("Question:", "Answer:")
_THOUGHT = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)  # what some open models write before they reply


@dataclass(frozen=True)
class Rejection:
    """Why a reply is not used.

    Attributes:
        reason: A few words that are the same for all replies of this kind, since they are counted.
        detail: What is wrong with this reply in particular; may be empty.
    """

    reason: str
    detail: str = ""


def parse_reply(text: str, response_type: str, detail_question: str) -> tuple[Turn, ...] | Rejection:
    """Returns the turns of a reply, or why it is rejected.

    Args:
        text: The unchanged reply.
        response_type: "conversation", "detail" or "reasoning".
        detail_question: The question that a detailed description answers.
    """
    if not is_text(text):
        return Rejection("no text")
    text = _THOUGHT.sub("", text).replace("\r\n", "\n").strip()
    turns = _parse_description(text, detail_question) if response_type == "detail" else _parse_blocks(text)
    if isinstance(turns, Rejection):
        return turns
    if response_type == "reasoning" and len(turns) != 1:
        return Rejection("more than one question", f"{len(turns)} questions")
    for turn in turns:
        if IMAGE_MARKER in turn.question or IMAGE_MARKER in turn.answer:
            return Rejection("contains the image marker")
        leak = find_leak(turn.question) or find_leak(turn.answer)
        if leak is not None:
            return Rejection("betrays its source", leak)
    return turns


def format_reply(turns: Sequence[Turn], response_type: str) -> str:
    """Formats the reply that `parse_reply` turns into these turns."""
    if response_type == "detail":
        return turns[0].answer
    blocks = [f"Question:\n{turn.question}\n{_SEPARATOR}\nAnswer:\n{turn.answer}" for turn in turns]
    return f"\n{_SEPARATOR}\n".join(blocks)


def _parse_description(text: str, question: str) -> tuple[Turn, ...] | Rejection:
    if not text:
        return Rejection("empty part", "the description")
    if any(_is_structure(line) for line in text.split("\n")):
        return Rejection("labels in a description")
    return (Turn(question, text),)


def _parse_blocks(text: str) -> tuple[Turn, ...] | Rejection:
    parts = _split(text)
    if len(parts) % 2:
        return Rejection("odd number of parts", f"{len(parts)}")
    values = []
    for index, part in enumerate(parts):
        label = _LABELS[index % 2]
        if part and not _starts_with(part, label):
            return Rejection("label missing", f"part {index + 1} does not begin with {label!r}")
        value = part[len(label) :].strip()
        if not value:
            return Rejection("empty part", f"part {index + 1}")
        if any(_is_structure(line) for line in value.split("\n")):
            return Rejection("separator missing", f"part {index + 1} contains another label")
        values.append(value)
    return tuple(Turn(*pair) for pair in zip(values[::2], values[1::2], strict=True))


def _split(text: str) -> list[str]:
    """Returns the parts between separators; ignores a separator at the very end, which separates nothing."""
    parts: list[list[str]] = [[]]
    for line in text.split("\n"):
        if line.strip() == _SEPARATOR:
            parts.append([])
        else:
            parts[-1].append(line)
    if len(parts) > 1 and not parts[-1]:
        parts.pop()
    return ["\n".join(part).strip() for part in parts]


def _is_structure(line: str) -> bool:
    return line.strip() == _SEPARATOR or any(_starts_with(line.strip(), label) for label in _LABELS)


def _starts_with(text: str, label: str) -> bool:
    return text[: len(label)].lower() == label.lower()
