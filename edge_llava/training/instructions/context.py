"""What a teacher that cannot see reads instead of the image: captions, and boxes as numbers.

Source: LLaVA (Liu et al., 2023), table 1, and github.com/haotian-liu/LLaVA, playground/data/prompts.
"""

from __future__ import annotations

from edge_llava.training.instructions.annotation import AnnotatedImage, Box

_MAX_CAPTIONS = 5


def format_context(image: AnnotatedImage, response_type: str) -> str:
    """Formats the text that represents an image.

    Args:
        image: Its first five captions are used.
        response_type: "conversation" uses captions only; "detail" and "reasoning" also use the boxes.

    Returns:
        One caption per line; then a blank line and one box per line, `category: [left, top, right, bottom]`, rounded
        to three decimals.
    """
    lines = [" ".join(caption.split()) for caption in image.captions[:_MAX_CAPTIONS]]
    if response_type != "conversation" and image.boxes:
        lines += ["", *(_format_box(box) for box in image.boxes)]
    return "\n".join(lines)


def _format_box(box: Box) -> str:
    corners = ", ".join(str(round(corner, 3)) for corner in (box.left, box.top, box.right, box.bottom))
    return f"{' '.join(box.category.split())}: [{corners}]"
