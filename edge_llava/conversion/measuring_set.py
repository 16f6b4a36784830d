"""What a conversion measures with: images for an int8 tower, and conversations about them for the language model."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_llava.conversion.calibration import builtin_images, list_images, read_images
from edge_llava.conversion.dialogues import builtin_dialogues, demo_dialogues, demo_images, own_dialogues
from edge_llava.converters.dialogue import Dialogue
from edge_llava.converters.options import ConvertOptions

_Images = Iterator[NDArray[np.uint8]]


@dataclass(frozen=True)
class MeasuringSet:
    """Images uint8 (H, W, 3), opened one at a time when they are needed, and what is said about the first of them.

    Attributes:
        images: Opens them.
        dialogues: The indices of their images are of `images`.
    """

    images: Callable[[], _Images]
    dialogues: tuple[Dialogue, ...]

    @classmethod
    def choose(cls, options: ConvertOptions, *, is_demo: bool) -> MeasuringSet:
        """Finds what the options name.

        Raises:
            ImageError: If a directory contains no images.
            DataError: If conversations cannot be read.
        """
        more: Callable[[], _Images] | None = None
        if options.calibrate is not None:
            paths = list_images(Path(options.calibrate))
            more = lambda: read_images(paths)  # noqa: E731
        if options.imatrix not in (None, "auto"):
            own, dialogues = own_dialogues(Path(str(options.imatrix)))
            return cls(_chain(lambda: read_images(own), more or builtin_images), tuple(dialogues))
        if is_demo and options.measures_importance:
            return cls(_chain(demo_images, more or builtin_images), tuple(demo_dialogues()))
        if more is not None and not options.measures_importance:
            return cls(more, ())
        return cls(_chain(builtin_images, more), tuple(builtin_dialogues()))


def _chain(first: Callable[[], _Images], second: Callable[[], _Images] | None) -> Callable[[], _Images]:
    return first if second is None else lambda: itertools.chain(first(), second())
