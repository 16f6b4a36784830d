"""The reference inputs and outputs that a bundle contains, so that a device without torch can check itself.

Format: safetensors, under 2 MB. Images are stored whole, pixel values and features as evenly spaced samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from edge_llava.bundle.manifest import StageParity
from edge_llava.errors import BundleError
from edge_llava.home.border import blaming_file
from edge_llava.home.regular_file import open_regular

MAX_BYTES = 16 << 20
N_SAMPLED_ROWS = 16
N_TOKENS = 16
PIXEL_STRIDE = 8
PROMPT_BEFORE = "USER: "
PROMPT_AFTER = "\nWhat is shown in this picture? ASSISTANT:"

_F32, _I64, _U8 = np.float32, np.int64, np.uint8


@dataclass(frozen=True, eq=False)
class ParityRecord:
    """N images and what the checkpoint computes from them in float32.

    Attributes:
        images: uint8 (H, W, 3) each.
        pixels: float32 (T, 3, S/8, S/8) each: pixel values of the reference processor, every 8th row and column.
        rows: int64 (R,): which rows of features and embeddings were kept; for tiled images, rows of the whole image.
        features: float32 (N, R, D), before the projector.
        embeddings: float32 (N, R, E), after it.
        before, after: int64 token ids around the image in the language check. The image is represented by the R rows
            of embeddings[0], so that this check does not depend on the tower.
        tokens: int64 (T,): greedy tokens of this bundle's language model on the converting machine.
        reference_tokens: int64 (T,): the checkpoint's next token after the same tokens.
        logits: float32 (V,): the checkpoint's logits for the first token.
    """

    images: tuple[NDArray[np.uint8], ...]
    pixels: tuple[NDArray[np.float32], ...]
    rows: NDArray[np.int64]
    features: NDArray[np.float32]
    embeddings: NDArray[np.float32]
    before: NDArray[np.int64]
    after: NDArray[np.int64]
    tokens: NDArray[np.int64]
    reference_tokens: NDArray[np.int64]
    logits: NDArray[np.float32]

    def save(self, path: Path) -> None:
        """Writes the record as safetensors."""
        tensors = {
            "rows": self.rows,
            "features": self.features,
            "embeddings": self.embeddings,
            "before": self.before,
            "after": self.after,
            "tokens": self.tokens,
            "reference_tokens": self.reference_tokens,
            "logits": self.logits,
        }
        for index, (image, pixels) in enumerate(zip(self.images, self.pixels, strict=True)):
            tensors |= {f"picture.{index}": image, f"pixels.{index}": pixels}
        save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, path)

    @classmethod
    def load(cls, path: Path) -> ParityRecord:
        """Reads what `save` wrote.

        Raises:
            BundleError: If the file is damaged, or a tensor is missing or has the wrong type or shape.
        """
        with blaming_file(BundleError, path, "Convert the checkpoint again."):
            open_regular(path, MAX_BYTES).close()
            with safe_open(path, framework="numpy") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            n_pictures = sum(name.startswith("picture.") for name in tensors)
            return cls(
                images=tuple(_typed(tensors, f"picture.{i}", _U8, 3) for i in range(n_pictures)),
                pixels=tuple(_typed(tensors, f"pixels.{i}", _F32, 4) for i in range(n_pictures)),
                rows=_typed(tensors, "rows", _I64, 1),
                features=_typed(tensors, "features", _F32, 3),
                embeddings=_typed(tensors, "embeddings", _F32, 3),
                before=_typed(tensors, "before", _I64, 1),
                after=_typed(tensors, "after", _I64, 1),
                tokens=_typed(tensors, "tokens", _I64, 1),
                reference_tokens=_typed(tensors, "reference_tokens", _I64, 1),
                logits=_typed(tensors, "logits", _F32, 1),
            )


@dataclass(frozen=True, eq=False)
class MeasuredParity:
    """How close a new bundle is to its checkpoint.

    Attributes:
        record: What the bundle contains for checks on other devices.
        figures: Figures by stage, for its manifest.
    """

    record: ParityRecord
    figures: Mapping[str, StageParity]


def _typed(tensors: dict[str, NDArray[np.generic]], name: str, dtype: type[np.generic], n_dims: int) -> NDArray:  # type: ignore[type-arg]
    tensor = tensors[name]
    if tensor.dtype != dtype or tensor.ndim != n_dims:
        raise ValueError(f"{name} is {tensor.dtype} with {tensor.ndim} axes")
    if dtype == _U8 and (tensor.shape[-1] != 3 or 0 in tensor.shape):
        raise ValueError(f"{name} has the shape {tensor.shape}, which is not an image's")
    if dtype == _F32 and not np.isfinite(tensor).all():
        raise ValueError(f"{name} contains infinite or undefined numbers")
    return tensor


def make_reference_images() -> tuple[NDArray[np.uint8], ...]:
    """Draws two small images, a wide and a tall one, with edges, gradients and noise; they are the same everywhere."""
    return _draw(160, 112, seed=1), _draw(90, 140, seed=2)


def sample_rows(n_features: int) -> NDArray[np.int64]:
    """Returns which rows of P features the record keeps: evenly spaced, including the first and the last."""
    return np.unique(np.linspace(0, n_features - 1, N_SAMPLED_ROWS).astype(np.int64))


def _draw(width: int, height: int, seed: int) -> NDArray[np.uint8]:
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([255 * x // width, 255 * y // height, 255 * (x + y) // (width + height)], -1)
    for _ in range(6):
        left, top = int(random.integers(0, width - 20)), int(random.integers(0, height - 20))
        w, h = (int(side) for side in random.integers(10, 60, 2))
        image[top : top + h, left : left + w] = random.integers(0, 256, 3)
    disc = (x - width * 0.6) ** 2 + (y - height * 0.4) ** 2 < (min(width, height) / 4) ** 2
    image[disc] = random.integers(0, 256, 3)
    noise = random.integers(-12, 13, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)
