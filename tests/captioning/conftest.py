"""Folders of small images, and the provenance of their lines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_llava.captioning.caption import Provenance


@pytest.fixture(scope="session")
def save_noise() -> Callable[[Path, int], Path]:
    """save_noise(path, seed) -> path of a small image that differs from those of other seeds."""

    def save(path: Path, seed: int) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path, format="PNG")
        return path

    return save


@pytest.fixture
def album(tmp_path: Path, save_noise: Callable[[Path, int], Path]) -> Path:
    """A folder of a.png, b/c.png and b/d.png."""
    for seed, name in enumerate(("a.png", "b/c.png", "b/d.png")):
        save_noise(tmp_path / "album" / name, seed)
    return tmp_path / "album"


@pytest.fixture
def provenance() -> Provenance:
    """The provenance of the lines that tests write."""
    return Provenance("caption", "bundle", "What?", "0123456789abcdef")
