"""A conversation as a client tells it: messages in order, read as questions with their answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edge_llava.errors import list_faults
from edge_llava.runtime.image_embedding import ImageEmbedding
from edge_llava.runtime.image_placement import OpenedImage
from edge_llava.runtime.picture import PictureSource
from edge_llava.runtime.turn_plan import check_text

_ROLES = ("user", "assistant")


@dataclass(frozen=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: Who says it. A system message, in the place of the template's own text, comes first or not at all; then
            "user" and "assistant" take turns, and a user's message is the last.
        text: What is said. Special tokens written in it are recognized, as in training.
        images: Pictures of a user's message; they stand before its text, as in training.
    """

    role: Literal["system", "user", "assistant"]
    text: str
    images: tuple[PictureSource | ImageEmbedding | OpenedImage, ...] = ()


@dataclass(frozen=True)
class Exchange:
    """A question and its answer; None while it has none."""

    question: Message
    answer: str | None


@dataclass(frozen=True)
class Dialogue:
    """Messages in their places.

    Attributes:
        system: The system message's text; "" without one.
        exchanges: At least one; only the last has no answer.
    """

    system: str
    exchanges: tuple[Exchange, ...]


def read_messages(messages: Sequence[Message]) -> Dialogue:
    """Puts messages in their places.

    Raises:
        ValueError: If they do not follow one another as `Message` says, or a text is no valid Unicode; all faults at
            once.
    """
    system = [message.text for message in messages[:1] if message.role == "system"]
    turns = messages[len(system) :]
    faults = [
        f"message {len(system) + n + 1} is of role {message.role!r}, expected {_ROLES[n % 2]!r}"
        for n, message in enumerate(turns)
        if message.role != _ROLES[n % 2]
    ]
    if len(turns) % 2 == 0:
        faults.append("the last message must be of role 'user'")
    faults += [
        f"message {number} of role {message.role!r} has images; only users show them"
        for number, message in enumerate(messages, 1)
        if message.images and message.role != "user"
    ]
    if faults:
        advice = "A system message may come first; then 'user' and 'assistant' take turns, and 'user' is the last."
        raise ValueError(list_faults("these messages are no conversation:", faults, advice))
    for number, message in enumerate(messages, 1):
        check_text(message.text, f"message {number}")
    answers = [*(message.text for message in turns[1::2]), None]
    exchanges = [Exchange(question, answer) for question, answer in zip(turns[::2], answers, strict=True)]
    return Dialogue("".join(system), tuple(exchanges))
