"""Pictures that people described: by captions, and by boxes around what is there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_llava.scenes.scene import Scene

_MAX_NUMBER = 1e300


@dataclass(frozen=True)
class Box:
    """One thing and the rectangle around it, in fractions of the picture's width and height, 0..1 from the upper left.

    Attributes:
        category: What it is: "dog".
        left, top, right, bottom: Of the rectangle; left < right and top < bottom.
    """

    category: str
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class AnnotatedPicture:
    """A picture and what people said about it.

    Attributes:
        id: Unique among the pictures of one file.
        image: Its path relative to the directory of pictures.
        captions: At least one.
        boxes: In the order of the file.
        scene: The facts of a drawn scene, None for a photograph.
    """

    id: str
    image: str
    captions: tuple[str, ...]
    boxes: tuple[Box, ...]
    scene: Scene | None = None


@dataclass(frozen=True)
class Annotations:
    """Pictures of a file, and what was wrong with those that were left out."""

    pictures: tuple[AnnotatedPicture, ...]
    faults: tuple[str, ...]


def find_missing(images: Path, image: str) -> list[str]:
    """The fault of a picture that is not there, or none."""
    path = os.path.join(images, image)
    return [] if os.path.isfile(path) else [f"picture {path} is missing"]


def parse_numbers(value: Any) -> tuple[float, float, float, float] | None:
    """Four finite numbers of JSON, or None if it is anything else."""
    if not isinstance(value, list) or len(value) != 4:
        return None
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) < _MAX_NUMBER for v in value):
        return None
    first, second, third, fourth = value
    return float(first), float(second), float(third), float(fourth)
