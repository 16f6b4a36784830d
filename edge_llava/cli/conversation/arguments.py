"""What the arguments of `chat` are: images, and perhaps the question."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import click

from edge_llava.cli.conversation.pasted_paths import find_images, find_missing
from edge_llava.demo import NAME, find_image
from edge_llava.errors import ImageError

_ADDRESS = re.compile(r"(?:https?|ftp)://", re.IGNORECASE)
_EMBEDDING = ".safetensors"
_WORD = re.compile(r"[^\W\d_]+[,.!;:]?")


def split_arguments(arguments: Sequence[str], prompt: str | None) -> tuple[list[str], str | None]:
    """Separates the question among the arguments from the images.

    An argument is the question if no file has its name, and it contains white space or ends in a question mark. The
    paths of images in it are taken out of it, as in a conversation.

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
    if questions:
        if (missing := find_missing(questions[0])) is not None:
            raise ImageError(f"there is no image {missing}.")
        typed = find_images(questions[0])
        images, prompt = [*images, *typed.paths], typed.text
    for name in images:
        check_image_name(name)
    return images, prompt


def check_image_name(name: str) -> None:
    """
    Raises:
        ImageError: If it is an address, a file of `edge-llava embed`, or no file.
    """
    if _ADDRESS.match(name):
        raise ImageError(f"images are not fetched: download {name} first, and give the file.")
    if name.lower().endswith(_EMBEDDING) and os.path.isfile(name):
        raise ImageError(f"{name} is not an image. If `edge-llava embed` made it, give it with --embedding {name}")
    if name == NAME:
        raise ImageError(f"{NAME} is a bundle. Its images are {NAME}:1 to {NAME}:4: edge-llava chat {NAME}:1")
    if name == "-" or name.startswith(f"{NAME}:") or os.path.lexists(name):
        return
    hint = " If it belongs to the question, put the question in quotes." if _WORD.fullmatch(name) else ""
    raise ImageError(f"there is no file {name}.{hint}")


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
    has_words = re.search(r"\S\s+\S", argument) is not None
    if has_words and _has_image_suffix(argument):  # a path with blanks, or a question that ends in a path
        typed = find_images(argument)
        return bool(typed.paths and typed.text)
    return argument.endswith("?") or has_words


def _has_image_suffix(name: str) -> bool:
    from edge_llava.home.image_files.formats import SUFFIXES

    return Path(name).suffix.lower() in SUFFIXES
