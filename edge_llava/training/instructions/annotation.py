"""Images described by people: captions, and boxes around what is visible."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_llava.scenes.scene import Scene

_MAX_NUMBER = 1e300


@dataclass(frozen=True)
class Box:
    """One thing and the rectangle around it, in fractions of the image's width and height, 0..1 from the upper left.

    Attributes:
        category: What the thing is: "dog".
        left, top, right, bottom: Edges of the rectangle; left < right and top < bottom.
    """

    category: str
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class AnnotatedImage:
    """An image and its descriptions.

    Attributes:
        id: Unique among the images of one file.
        path: Its path relative to the directory of images.
        captions: At least one.
        boxes: In the order of the file.
        scene: The facts of a drawn scene; None for a photograph.
    """

    id: str
    path: str
    captions: tuple[str, ...]
    boxes: tuple[Box, ...]
    scene: Scene | None = None


@dataclass(frozen=True)
class Annotations:
    """The images of a file, and the faults of those that were left out."""

    images: tuple[AnnotatedImage, ...]
    faults: tuple[str, ...]


def find_missing(images: Path, image: str) -> list[str]:
    """Returns the fault of a missing image, or no fault."""
    path = os.path.join(images, image)
    return [] if os.path.isfile(path) else [f"image {path} is missing"]


def parse_numbers(value: Any) -> tuple[float, float, float, float] | None:
    """Returns four finite numbers from JSON, or None for anything else."""
    if not isinstance(value, list) or len(value) != 4:
        return None
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) < _MAX_NUMBER for v in value):
        return None
    first, second, third, fourth = value
    return float(first), float(second), float(third), float(fourth)
