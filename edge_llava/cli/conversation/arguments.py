"""What the arguments of `chat` are: images, and perhaps the question."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import click

from edge_llava.demo import find_image
from edge_llava.errors import ImageError

_ADDRESS = re.compile(r"(?:https?|ftp)://", re.IGNORECASE)
_EMBEDDING = ".safetensors"


def split_arguments(arguments: Sequence[str], prompt: str | None) -> tuple[list[str], str | None]:
    """Separates the question among the arguments from the images.

    An argument is the question if no file has its name, and it contains white space or ends in a question mark.

    Returns:
        The images, and the question: `prompt`, unless the arguments contain it.

    Raises:
        ImageError: As `check_image_name`.
        UsageError: If there are several questions.
    """
    questions = [argument for argument in arguments if _is_question(argument)]
    images = [argument for argument in arguments if argument not in questions]
    if len(questions) + (prompt is not None) > 1:
        raise click.UsageError(
            f"there are several questions, among them {questions[0]!r}. Give one question, in quotes, and image files."
        )
    for name in images:
        check_image_name(name)
    return images, questions[0] if questions else prompt


def check_image_name(name: str) -> None:
    """
    Raises:
        ImageError: If it is an address, or a file of `edge-llava embed`.
    """
    if _ADDRESS.match(name):
        raise ImageError(f"images are not fetched: download {name} first, and give the file.")
    if name.lower().endswith(_EMBEDDING) and os.path.isfile(name):
        raise ImageError(f"{name} is not an image. If `edge-llava embed` made it, give it with --embedding {name}")


def check_embedding_name(name: str) -> None:
    """
    Raises:
        ImageError: If it is an image file.
    """
    if os.path.isfile(name) and _has_image_suffix(name):
        raise ImageError(f"{name} is an image, not a file of `edge-llava embed`. Give it without --embedding.")


def _is_question(argument: str) -> bool:
    if os.path.exists(argument) or find_image(argument) is not None or _ADDRESS.match(argument):
        return False
    return argument.endswith("?") or (bool(re.search(r"\S\s+\S", argument)) and not _has_image_suffix(argument))


def _has_image_suffix(name: str) -> bool:
    from edge_llava.home.image_files.formats import SUFFIXES

    return Path(name).suffix.lower() in SUFFIXES
