"""Turns as segments: text and the places of pictures. Pure: no tokenizer, no engine."""

from __future__ import annotations

from dataclasses import dataclass

from edge_llava.templates import Template


@dataclass(frozen=True)
class TextSegment:
    """Text, tokenized on its own (each side of an image apart from the other, as in training)."""

    text: str


@dataclass(frozen=True)
class ImageSegment:
    """The place of a picture: its index among the pictures of the turn."""

    index: int


Segment = TextSegment | ImageSegment


def build_turn(
    template: Template, question: str, n_images: int, *, is_first: bool, image_marks: bool = False
) -> list[Segment]:
    """The segments of one turn: what comes before the question, its pictures, the question, what opens the answer.

    Args:
        template: The conversation template.
        question: The user's text. Special tokens written in it are recognized, as in training.
        n_images: Pictures that belong to this turn; each is placed before the question and followed by a newline.
        is_first: Whether the conversation begins here.
        image_marks: Whether the model was trained with <im_start> and <im_end> around every picture.

    Returns:
        Text and image segments in order; never two texts in a row.
    """
    segments: list[Segment] = []
    text = template.opening if is_first else template.between_turns
    start, end = ("<im_start>", "<im_end>") if image_marks else ("", "")
    for index in range(n_images):
        segments += [TextSegment(f"{text}{start}"), ImageSegment(index)]
        text = f"{end}\n"
    segments.append(TextSegment(f"{text}{question}{template.after_question}"))
    return segments
