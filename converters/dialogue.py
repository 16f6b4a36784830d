"""What is said about images, to measure a language model with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")


@dataclass(frozen=True)
class Dialogue:
    """Questions with their answers about one image.

    Attributes:
        image: Index of the image; None: it is about none.
        turns: (question, answer) each, at least one.
    """

    image: int | None
    turns: tuple[tuple[str, str], ...]


def choose_evenly(items: Sequence[Item], most: int) -> list[Item]:
    """An evenly spaced choice of at most `most` of them, in their order."""
    chosen = np.unique(np.linspace(0, len(items) - 1, min(len(items), most)).astype(int))
    return [items[index] for index in chosen]
