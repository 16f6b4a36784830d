"""The last conversation, kept in the home for `chat --continue`; images are kept by path and digest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_llava.cli.conversation.shown_image import ShownImage
from edge_llava.cli.conversation.transcript import AnsweredQuestion
from edge_llava.cli.display import note
from edge_llava.errors import EdgeLlavaError, ImageError
from edge_llava.home.border import blaming_file
from edge_llava.home.directories import has_home, home_directory
from edge_llava.home.files import atomic_file
from edge_llava.home.image_files.alpha import Alpha
from edge_llava.home.regular_file import read_text

_VERSION = 1


def keep_conversation(bundle: Path, system: str, turns: list[AnsweredQuestion]) -> bool:
    """Writes the conversation, readable by this user only; of an empty one, deletes what was kept of it.

    Args:
        bundle: The directory of the bundle that answers.
        system: The user's system text, or "".
        turns: What was said.

    Returns:
        Whether it is kept; if the home refuses it, a note says so.
    """
    data = {
        "version": _VERSION,
        "bundle": str(bundle),
        "system": system,
        "turns": [
            {
                "question": turn.question,
                "answer": turn.answer,
                "images": [_describe(image) for image in turn.images],
            }
            for turn in turns
        ],
    }
    if not has_home():
        return False
    try:
        if not turns:
            _path().unlink(missing_ok=True)
            return True
        _path().parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(_path(), mode=0o600) as file:
            file.write(json.dumps(data).encode())
    except OSError as error:
        note(f"edge-llava: the conversation cannot be kept for --continue: {error.strerror}.")
        return False
    return True


@dataclass(frozen=True)
class KeptConversation:
    """What `keep_conversation` wrote.

    Attributes:
        bundle: The directory of the bundle that answered.
        system: The user's system text, or "".
        turns: What was said.
    """

    bundle: Path
    system: str
    turns: tuple[AnsweredQuestion, ...]


def read_conversation(alpha: Alpha) -> KeptConversation:
    """The last conversation; `alpha` is for its images.

    Raises:
        EdgeLlavaError: If there is none, or it is damaged.
    """
    if not has_home() or not _path().is_file():
        raise EdgeLlavaError("there is no conversation to continue. Start one with: edge-llava chat IMAGE")
    with blaming_file(EdgeLlavaError, _path(), "Delete it, or start without --continue."):
        data = json.loads(read_text(_path()))
        if data["version"] != _VERSION:
            raise ValueError(f"it is of version {data['version']}, not {_VERSION}")
        turns = tuple(
            AnsweredQuestion(
                _text(turn["question"]),
                tuple(_read_image(image, alpha) for image in turn["images"]),
                _text(turn["answer"]),
            )
            for turn in data["turns"]
        )
        return KeptConversation(Path(_text(data["bundle"])), _text(data["system"]), turns)


def find_present(images: Sequence[ShownImage]) -> tuple[ShownImage, ...]:
    """Those that can be opened; a note says which cannot, and which have changed and are taken as they are now."""
    return tuple(filter(_is_there, images))


def check_images(turns: Sequence[AnsweredQuestion]) -> list[AnsweredQuestion]:
    """The turns with the images that `find_present` finds."""
    return [AnsweredQuestion(turn.question, find_present(turn.images), turn.answer) for turn in turns]


def _is_there(image: ShownImage) -> bool:
    if image.is_in_memory:
        return True
    if image.file is None:
        note(f"{image.name} was not kept; the conversation continues without it.")
        return False
    try:
        if image.has_changed:
            note(f"{image.name} has changed since; the conversation continues with the file as it is now.")
            image.accept_change()
        image.open()
    except ImageError as error:
        note(f"edge-llava: {error} The conversation continues without it.")
        return False
    return True


def _path() -> Path:
    return home_directory() / "conversation.json"


def _describe(image: ShownImage) -> dict[str, Any]:
    file = str(image.file) if image.file is not None else None
    return {"name": image.name, "file": file, "sha256": image.sha256, "is_embedding": image.is_embedding}


def _read_image(data: dict[str, Any], alpha: Alpha) -> ShownImage:
    file = Path(_text(data["file"])) if data["file"] is not None else None
    return ShownImage(_text(data["name"]), alpha, file, _text(data["sha256"]), bool(data["is_embedding"]))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value
