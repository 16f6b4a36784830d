"""Images of a data set as pixel values, exactly as the runtime will see them, or as the frozen tower's features."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from edge_llava.converters.image_processors import CLIPImageProcessor, LlavaImageProcessor
from edge_llava.errors import DataError, ImageError
from edge_llava.home.files import atomic_file, remove_abandoned
from edge_llava.home.image_files.opening import is_truncated, open_image
from edge_llava.home.progress import ProgressCallback, ProgressEvent
from edge_llava.training.llava import Llava, patch_features

_BATCH = 32


@dataclass(frozen=True)
class ImageFolder:
    """Images by their path relative to a folder, preprocessed as LLaVA-1.5 does (`pad`) or as CLIP does (`crop`).

    Attributes:
        directory: The folder.
        llava: The model whose preprocessing is used.
    """

    directory: Path
    llava: Llava

    def read(self, names: Sequence[str]) -> torch.Tensor:
        """Reads pixel values float32 (N, 3, S, S).

        Raises:
            DataError: If an image cannot be read.
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
            image = open_image(self.directory / name)
        except (ImageError, OSError) as error:
            raise DataError(f"the image {self.directory / name} cannot be read: {error}") from error
        if is_truncated(image):  # the model would learn an answer about what is missing
            raise DataError(f"the image {self.directory / name} cannot be read: its file ends early.")
        return image


class KeptFeatures:
    """Patch features of a data set's images, computed once, since the tower is frozen; float16 in one file."""

    def __init__(self, folder: ImageFolder, names: Sequence[str], directory: Path, progress: ProgressCallback) -> None:
        """
        Args:
            folder: The images, and the model whose tower is used.
            names: All images.
            directory: Where the file goes; an existing file for the same images and tower is used again.
            progress: Receives the number of images.
        """
        unique = sorted(set(names))
        self._rows = {name: row for row, name in enumerate(unique)}
        path = directory / f"features-{_digest(folder, unique)}.npy"
        if not path.is_file():
            _compute(folder, unique, path, progress)
        self._features: np.ndarray = np.load(path, mmap_mode="r")

    def read(self, names: Sequence[str]) -> torch.Tensor:
        """Reads patch features float32 (N, P, D)."""
        rows = [self._rows[name] for name in names]
        return torch.from_numpy(np.stack([self._features[row] for row in rows]).astype(np.float32)) if rows else _NONE


_NONE = torch.zeros(0, 1, 1)


def _compute(folder: ImageFolder, names: Sequence[str], path: Path, progress: ProgressCallback) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    model = folder.llava.model
    model.eval()
    shape = (len(names), folder.llava.special.n_patches, model.config.vision_config.hidden_size)
    device = next(model.parameters()).device
    remove_abandoned(path.parent)
    with atomic_file(path) as file:
        descr = np.lib.format.dtype_to_descr(np.dtype(np.float16))
        np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
        for start in range(0, len(names), _BATCH):
            batch = names[start : start + _BATCH]
            features = patch_features(model, folder.read(batch).to(device)).cpu().numpy()
            file.write(features.astype(np.float16).tobytes())
            progress(ProgressEvent("patch features", start + len(batch), len(names), "items"))
        file.flush()
        os.fsync(file.fileno())  # zeros in their place would be read as features


def _digest(folder: ImageFolder, names: Sequence[str]) -> str:
    """Computes a digest of the tower's weights, the preprocessing, and the images' names, sizes and times."""
    digest = hashlib.sha256(json.dumps(folder.llava.preprocessing.to_config(), sort_keys=True).encode())
    digest.update(str(folder.llava.model.config.vision_feature_layer).encode())
    for parameter in folder.llava.model.model.vision_tower.parameters():
        digest.update(parameter.detach().cpu().numpy().tobytes())
    for name in names:
        status = (folder.directory / name).stat()
        digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
