"""A conversation as a client sends it: messages in order, read as questions with their answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edge_llava.errors import list_faults
from edge_llava.home.image_files.opening import ImageSource
from edge_llava.home.unicode_text import is_unicode
from edge_llava.runtime.vision.image import Image
from edge_llava.runtime.vision.image_embedding import ImageEmbedding

ImageInput = ImageSource | Image | ImageEmbedding
_ROLES = ("user", "assistant")


@dataclass(frozen=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: Who says it. A system message, in the place of the template's own text, comes first or not at all; then
            "user" and "assistant" take turns. A last message of the assistant begins the answer, which continues it.
        text: What is said. Special tokens written in it are recognized, as in training.
        images: Images of a user's message.
        places: For each image, the number of characters of the text that stand before it, in ascending order; a
            newline follows every image. () places all images before the text, as in training.
    """

    role: Literal["system", "user", "assistant"]
    text: str
    images: tuple[ImageInput, ...] = ()
    places: tuple[int, ...] = ()


@dataclass(frozen=True)
class RawPrompt:
    """A text that is continued as it is: without a conversation template, images, or the template's stop text.

    Attributes:
        text: Special tokens written in it are recognized; the one that begins every text is added.
    """

    text: str


Prompt = Sequence[Message] | RawPrompt
"""What can be answered."""


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
        exchanges: At least one; only the last has no answer. An assistant's greeting, which comes before the first
            question, answers an empty one.
        answer_start: What the answer begins with; it is continued.
    """

    system: str
    exchanges: tuple[Exchange, ...]
    answer_start: str = ""


def read_messages(messages: Sequence[Message]) -> Dialogue:
    """Puts messages in their places.

    Raises:
        ValueError: If they do not follow one another as `Message` says, or a text is not valid Unicode; all faults at
            once.
    """
    system = [message.text for message in messages[:1] if message.role == "system"]
    turns = messages[len(system) :]
    is_greeted = bool(turns) and turns[0].role == "assistant"
    faults = [*_find_order_faults(turns, len(system) + 1, int(is_greeted)), *_find_image_faults(messages)]
    if faults:
        advice = "A system message may come first; then 'user' and 'assistant' take turns."
        raise ValueError(list_faults("these messages are not a conversation:", faults, advice))
    for number, message in enumerate(messages, 1):
        check_text(message.text, f"message {number}")
    if is_greeted:
        turns = [Message("user", ""), *turns]
    answers: list[str | None] = [message.text for message in turns[1::2]]
    start = answers.pop() or "" if len(turns) % 2 == 0 else ""
    exchanges = [Exchange(question, answer) for question, answer in zip(turns[::2], [*answers, None], strict=True)]
    return Dialogue("".join(system), tuple(exchanges), start)


def check_text(text: str, name: str) -> None:
    """Raises ValueError if the text, called `name`, is not valid Unicode."""
    if not is_unicode(text):
        raise ValueError(f"{name} contains unpaired surrogates, which are not valid text")


def _find_order_faults(turns: Sequence[Message], first_number: int, offset: int) -> list[str]:
    faults = [
        f"message {number} is of role {message.role!r}, expected {_ROLES[n % 2]!r}"
        for number, (n, message) in enumerate(enumerate(turns, offset), first_number)
        if message.role != _ROLES[n % 2]
    ]
    if not any(message.role == "user" for message in turns):
        faults.append("none of the messages is of role 'user'")
    return faults


def _find_image_faults(messages: Sequence[Message]) -> list[str]:
    faults = []
    for number, message in enumerate(messages, 1):
        if message.images and message.role != "user":
            faults.append(f"message {number} of role {message.role!r} has images; only users show them")
        borders = [0, *message.places, len(message.text)]
        if message.places and (len(message.places) != len(message.images) or sorted(borders) != borders):
            faults.append(
                f"message {number} has places {message.places} for {len(message.images)} images and "
                f"{len(message.text)} characters"
            )
    return faults
