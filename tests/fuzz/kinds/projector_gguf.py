"""projector.gguf with the digest that its manifest names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from damage import damage_gguf
from frame import Kind, copy_small_bundle

from edge_llava.bundle.bundle import Bundle
from edge_llava.device.thread_count import ThreadCount
from edge_llava.errors import BackendError, BundleError
from edge_llava.runtime.vision.projector import Projector


def make(directory: Path) -> Sequence[bytes]:
    """The small bundle's."""
    return [copy_small_bundle(directory).file("projector").read_bytes()]


def read(directory: Path, content: bytes) -> None:
    """Loads it and projects some rows."""
    path, spec = directory / "damaged.gguf", Bundle.open(directory).manifest.projector
    path.write_bytes(content)
    projector = Projector(path, spec, ThreadCount(1))
    try:
        projector(np.ones((8, spec.in_features), np.float32))
    finally:
        projector.close()


KIND = Kind(n_cases=400, make=make, damage=damage_gguf, read=read, errors=(BundleError, BackendError))
