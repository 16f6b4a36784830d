"""What a teacher that cannot see reads in place of the picture: captions, and boxes as numbers.

Source: LLaVA (Liu et al., 2023), table 1, and github.com/haotian-liu/LLaVA, playground/data/prompts.
"""

from __future__ import annotations

from edge_llava.training.instructions.annotation import AnnotatedPicture, Box

_MAX_CAPTIONS = 5


def format_context(picture: AnnotatedPicture, response_type: str) -> str:
    """The text that stands for a picture.

    Args:
        picture: Its first five captions are used.
        response_type: "conversation" takes captions only; "detail" and "reasoning" take the boxes too.

    Returns:
        One caption a line; then a blank line and one box a line, `category: [left, top, right, bottom]`, rounded to
        three decimals.
    """
    lines = [" ".join(caption.split()) for caption in picture.captions[:_MAX_CAPTIONS]]
    if response_type != "conversation" and picture.boxes:
        lines += ["", *(_format_box(box) for box in picture.boxes)]
    return "\n".join(lines)


def _format_box(box: Box) -> str:
    corners = ", ".join(str(round(corner, 3)) for corner in (box.left, box.top, box.right, box.bottom))
    return f"{' '.join(box.category.split())}: [{corners}]"
