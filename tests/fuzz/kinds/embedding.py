"""The file of `edge-llava embed`, asked about."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from damage import damage_safetensors
from frame import Kind, copy_small_bundle

from edge_llava.bundle.bundle import Bundle
from edge_llava.errors import ImageError
from edge_llava.runtime.options import EngineOptions
from edge_llava.runtime.vision.image_embedding import ImageEmbedding
from edge_llava.runtime.vision.image_encoder import tower_digest
from edge_llava.runtime.vision.tower import Tower


def make(directory: Path) -> Sequence[bytes]:
    """One of rows that the small bundle could give, in both kinds of numbers."""
    bundle = copy_small_bundle(directory)
    manifest, path = bundle.manifest, directory / "embedding.safetensors"
    digests = tower_digest(manifest), manifest.files["projector"].sha256
    embedding = ImageEmbedding(np.ones((64, manifest.language.n_embd), np.float32), "0" * 64, (8, 8), (9, 16), *digests)
    seeds = []
    for dtype in ("float32", "float16"):
        embedding.save(path, dtype)  # type: ignore[arg-type]
        seeds.append(path.read_bytes())
    return seeds


def read(directory: Path, content: bytes) -> None:
    """Loads it and checks that it belongs to the bundle."""
    path = directory / "embedding.safetensors"
    path.write_bytes(content)
    Tower(Bundle.open(directory), EngineOptions()).check(ImageEmbedding.load(path))


KIND = Kind(n_cases=500, make=make, damage=damage_safetensors, read=read, errors=(ImageError,))
