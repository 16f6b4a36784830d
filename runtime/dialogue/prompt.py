"""Turns as segments: text and the places of images. Pure: no tokenizer, no engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_llava.bundle.templates import Template


@dataclass(frozen=True)
class TextSegment:
    """Text, tokenized on its own (each side of an image apart from the other, as in training)."""

    text: str


@dataclass(frozen=True)
class ImageSegment:
    """The place of an image: its index among the images of the turn."""

    index: int


Segment = TextSegment | ImageSegment


def build_turn(
    template: Template,
    question: str,
    n_images: int,
    *,
    is_first: bool,
    image_marks: bool = False,
    places: Sequence[int] = (),
) -> list[Segment]:
    """The segments of one turn: what comes before the question, its images, the question, what opens the answer.

    Args:
        template: The conversation template.
        question: The user's text. Special tokens written in it are recognized, as in training.
        n_images: Images that belong to this turn; each is followed by a newline, as in training.
        is_first: Whether the conversation begins here.
        image_marks: Whether the model was trained with <im_start> and <im_end> around every image.
        places: For each image, the number of characters of the question that stand before it, in ascending order;
            () places all images before the question, as in training.

    Returns:
        Text and image segments in order; never two texts in a row.
    """
    segments: list[Segment] = []
    text = template.opening if is_first else template.between_turns
    start, end = ("<im_start>", "<im_end>") if image_marks else ("", "")
    n_before = 0
    for index, place in enumerate(places or (0,) * n_images):
        segments += [TextSegment(f"{text}{question[n_before:place]}{start}"), ImageSegment(index)]
        text, n_before = f"{end}\n", place
    segments.append(TextSegment(f"{text}{question[n_before:]}{template.after_question}"))
    return segments
