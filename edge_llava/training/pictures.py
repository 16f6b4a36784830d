"""Pictures of a data set as pixel values, exactly as the runtime will see them, or as the frozen tower's features."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from edge_llava.converters.image_processors import CLIPImageProcessor, LlavaImageProcessor
from edge_llava.errors import DataError, ImageError
from edge_llava.home.progress import ProgressCallback, ProgressEvent
from edge_llava.runtime.vision.images.opening import is_truncated, open_picture
from edge_llava.training.llava import Llava, patch_features

_BATCH = 32


@dataclass(frozen=True)
class PictureFolder:
    """Pictures by their path relative to a folder, preprocessed as LLaVA-1.5 does (`pad`) or as CLIP does (`crop`).

    Attributes:
        directory: The folder.
        llava: Whose preprocessing it is.
    """

    directory: Path
    llava: Llava

    def read(self, names: Sequence[str]) -> torch.Tensor:
        """Pixel values float32 (N, 3, S, S).

        Raises:
            DataError: If a picture cannot be read.
        """
        if not names:
            return torch.zeros(0, 3, 1, 1)
        preprocessing = self.llava.preprocessing
        make = LlavaImageProcessor if preprocessing.aspect == "pad" else CLIPImageProcessor
        processor = make.from_dict(preprocessing.to_config())
        values = processor([self._open(name) for name in names], return_tensors="pt")["pixel_values"]
        pixels: torch.Tensor = values
        return pixels

    def _open(self, name: str) -> Image.Image:
        try:
            picture = open_picture(self.directory / name)
        except (ImageError, OSError) as error:
            raise DataError(f"the picture {self.directory / name} cannot be read: {error}") from error
        if is_truncated(picture):  # an answer about what is missing would be learned
            raise DataError(f"the picture {self.directory / name} cannot be read: its file ends early.")
        return picture


class KeptFeatures:
    """Patch features of a data set's pictures, computed once, since the tower is frozen; float16 in one file."""

    def __init__(
        self, folder: PictureFolder, names: Sequence[str], directory: Path, progress: ProgressCallback
    ) -> None:
        """
        Args:
            folder: Where the pictures are, and whose tower.
            names: All pictures.
            directory: Of the file; one that was made of the same pictures by the same tower is used again.
            progress: Told pictures.
        """
        unique = sorted(set(names))
        self._rows = {name: row for row, name in enumerate(unique)}
        path = directory / f"features-{_digest(folder, unique)}.npy"
        if not path.is_file():
            _compute(folder, unique, path, progress)
        self._features: np.ndarray = np.load(path, mmap_mode="r")

    def read(self, names: Sequence[str]) -> torch.Tensor:
        """Patch features float32 (N, P, D)."""
        rows = [self._rows[name] for name in names]
        return torch.from_numpy(np.stack([self._features[row] for row in rows]).astype(np.float32)) if rows else _NONE


_NONE = torch.zeros(0, 1, 1)


def _compute(folder: PictureFolder, names: Sequence[str], path: Path, progress: ProgressCallback) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".partial")
    model = folder.llava.model
    model.eval()
    shape = (len(names), folder.llava.special.n_patches, model.config.vision_config.hidden_size)
    kept = np.lib.format.open_memmap(unfinished, "w+", np.float16, shape)
    device = next(model.parameters()).device
    for start in range(0, len(names), _BATCH):
        batch = names[start : start + _BATCH]
        kept[start : start + len(batch)] = patch_features(model, folder.read(batch).to(device)).cpu().numpy()
        progress(ProgressEvent("patch features", start + len(batch), len(names), "items"))
    kept.flush()
    unfinished.replace(path)


def _digest(folder: PictureFolder, names: Sequence[str]) -> str:
    """Of the tower's weights, the preprocessing, and the names, sizes and times of the pictures."""
    digest = hashlib.sha256(json.dumps(folder.llava.preprocessing.to_config(), sort_keys=True).encode())
    digest.update(str(folder.llava.model.config.vision_feature_layer).encode())
    for parameter in folder.llava.model.model.vision_tower.parameters():
        digest.update(parameter.detach().cpu().numpy().tobytes())
    for name in names:
        status = (folder.directory / name).stat()
        digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
