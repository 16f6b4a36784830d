"""Conversation templates as data, and turns as segments. Pure: no tokenizer, no engine.

Source: LLaVA's conversation.py; LLaVA-1.5's own command line uses `llava_v1`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edge_llava.errors import BundleError

_HUMAN = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
_USER = _HUMAN.replace("human", "user")


@dataclass(frozen=True)
class TextSegment:
    """Text, tokenized on its own (each side of an image apart from the other, as in training)."""

    text: str


@dataclass(frozen=True)
class ImageSegment:
    """The place of a picture: its index among the pictures of the turn."""

    index: int


Segment = TextSegment | ImageSegment


@dataclass(frozen=True)
class Template:
    """The text around a conversation, exactly as in training.

    Attributes:
        name: Key in TEMPLATES, recorded in the manifest.
        opening: From the start (BOS excluded) to the first question.
        after_question: From the end of a question to where the model writes.
        between_turns: From the end of an answer to the next question.
        stop: Text that ends an answer, beside the end-of-sequence token.
    """

    name: str
    opening: str
    after_question: str
    between_turns: str
    stop: str


TEMPLATES: Mapping[str, Template] = {
    template.name: template
    for template in (
        Template("llava_v1", f"{_HUMAN} USER: ", " ASSISTANT:", "</s>USER: ", "</s>"),
        Template("vicuna_v1", f"{_USER} USER: ", " ASSISTANT:", "</s>USER: ", "</s>"),
    )
}


def find_template(name: str) -> Template:
    """Returns the template of that name.

    Raises:
        BundleError: If this version has none.
    """
    if name not in TEMPLATES:
        raise BundleError(
            f"there is no conversation template {name!r}; known: {', '.join(TEMPLATES)}. Upgrade edge-llava."
        )
    return TEMPLATES[name]


def build_turn(template: Template, question: str, n_images: int, *, is_first: bool) -> list[Segment]:
    """The segments of one turn: what comes before the question, its pictures, the question, what opens the answer.

    Args:
        template: The conversation template.
        question: The user's text. Special tokens written in it are recognized, as in training.
        n_images: Pictures that belong to this turn; each is placed before the question and followed by a newline.
        is_first: Whether the conversation begins here.

    Returns:
        Text and image segments in order; never two texts in a row.
    """
    segments: list[Segment] = []
    text = template.opening if is_first else template.between_turns
    for index in range(n_images):
        segments += [TextSegment(text), ImageSegment(index)]
        text = "\n"
    segments.append(TextSegment(f"{text}{question}{template.after_question}"))
    return segments
