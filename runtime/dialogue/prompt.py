"""The texts of a turn, with the places of its images between them. Pure: no tokenizer, no engine."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from edge_llava.bundle.templates import Template


def build_turn(
    template: Template,
    question: str,
    n_images: int,
    *,
    is_first: bool,
    image_marks: bool = False,
    places: Sequence[int] = (),
) -> list[str]:
    """What is said in one turn: what comes before the question, the question, what opens the answer.

    Args:
        template: The conversation template.
        question: The user's text. Special tokens written in it are recognized, as in training.
        n_images: Images that belong to this turn; each is followed by a newline, as in training.
        is_first: Whether the conversation begins here.
        image_marks: Whether the model was trained with <im_start> and <im_end> around every image.
        places: For each image, the number of characters of the question that stand before it, in ascending order;
            () places all images before the question, as in training.

    Returns:
        One text more than there are images: an image stands between each two.
    """
    start, end = ("<im_start>", "<im_end>") if image_marks else ("", "")
    before = [template.opening if is_first else template.between_turns, *[f"{end}\n"] * n_images]
    after = [*[start] * n_images, template.after_question]
    parts = pairwise([0, *(places or [0] * n_images), len(question)])
    return [
        f"{head}{question[first:last]}{tail}" for head, (first, last), tail in zip(before, parts, after, strict=True)
    ]
