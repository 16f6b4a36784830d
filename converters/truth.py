"""What the checkpoint itself computes from images, with which a bundle is compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_llava.converters import reference
from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.converters.reference_tower import reference_features


@dataclass(frozen=True, eq=False)
class VisionTruth:
    """Images uint8 (H, W, 3), and what the checkpoint's tower and projector compute from each in float32.

    Attributes:
        images: RGB.
        pixels: (T, 3, S, S): one square, or, for "anyres", the whole image and its tiles.
        features: (T, P, D).
        rows: (T, P, E): after the projector.
        embeddings: (N, E): what the language model reads.
    """

    images: tuple[NDArray[np.uint8], ...]
    pixels: tuple[NDArray[np.float32], ...]
    features: tuple[NDArray[np.float32], ...]
    rows: tuple[NDArray[np.float32], ...]
    embeddings: tuple[NDArray[np.float32], ...]


def vision_truth(
    checkpoint: Checkpoint, images: tuple[NDArray[np.uint8], ...], aspect: str, max_tiles: int | None = None
) -> VisionTruth:
    """Runs the checkpoint's tower and projector on images, in float32; `max_tiles` is as in `ConvertOptions`."""
    pixels = [reference.reference_pixels(checkpoint, image, aspect, max_tiles) for image in images]
    return project_truth(checkpoint, images, pixels, reference_features(checkpoint, pixels), max_tiles)


def project_truth(
    checkpoint: Checkpoint,
    images: tuple[NDArray[np.uint8], ...],
    pixels: Sequence[NDArray[np.float32]],
    features: Sequence[NDArray[np.float32]],
    max_tiles: int | None,
) -> VisionTruth:
    """Runs the checkpoint's projector on each image's features; see `VisionTruth` for the shapes."""
    rows = tuple(reference.reference_rows(checkpoint, values) for values in features)
    embeddings = tuple(
        reference.reference_embedding(checkpoint, values, (image.shape[1], image.shape[0]), max_tiles)
        for image, values in zip(images, rows, strict=True)
    )
    return VisionTruth(images, tuple(pixels), tuple(features), rows, embeddings)
