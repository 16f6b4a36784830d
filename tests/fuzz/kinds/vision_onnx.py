"""vision.onnx with the digest that its manifest names."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from damage import damage_protobuf
from frame import Kind, copy_small_bundle

from edge_llava.bundle.bundle import Bundle
from edge_llava.bundle.manifest import Manifest
from edge_llava.errors import BackendError, BundleError, ImageError
from edge_llava.runtime.lifetime.cancel import Cancelled
from edge_llava.runtime.options import EngineOptions
from edge_llava.runtime.vision.image import Image
from edge_llava.runtime.vision.image_encoder import ImageEncoder


def make(directory: Path) -> Sequence[bytes]:
    """The small bundle's."""
    return [copy_small_bundle(directory).file("vision").read_bytes()]


def read(directory: Path, content: bytes) -> None:
    """Opens it and encodes an image; a graph without end is stopped, as Ctrl-C does."""
    (directory / "vision.onnx").write_bytes(content)
    manifest = Manifest.from_json((directory / "manifest.json").read_text(encoding="utf-8"), "manifest.json")
    cancel = threading.Event()
    watch = threading.Timer(5.0, cancel.set)
    watch.start()
    try:
        with closing(ImageEncoder(Bundle(directory, manifest), EngineOptions(n_vision_threads=1))) as encoder:
            encoder.encode(Image.open(np.zeros((9, 16, 3), np.uint8)), "key", cancel)
    except Cancelled:
        return
    finally:
        watch.cancel()


KIND = Kind(n_cases=150, make=make, damage=damage_protobuf, read=read, errors=(BundleError, BackendError, ImageError))
