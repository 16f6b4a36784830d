"""Which picture, seen by which tower: known from the pixels, before anything is encoded."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict

from PIL import Image

from edge_llava.bundle.manifest import Manifest
from edge_llava.runtime.vision.image import digest_pixels

_REDUCTION = "token reduction 1"  # another number when `reduce_tokens` gives other rows


def image_key(picture: Image.Image, manifest: Manifest, visual_tokens: int | None) -> str:
    """sha256 (hex) of all that decides a picture's rows.

    Args:
        picture: Upright RGB.
        manifest: Gives the vision spec, the tower and the projector.
        visual_tokens: Rows that the picture is reduced to; None: all are kept.
    """
    digest = hashlib.sha256(digest_pixels(picture))
    digest.update(json.dumps(asdict(manifest.vision), sort_keys=True).encode())
    for part in (tower_digest(manifest), manifest.files["projector"].sha256):
        digest.update(bytes.fromhex(part))
    if visual_tokens is not None:
        digest.update(f"{_REDUCTION} {visual_tokens}".encode())
    return digest.hexdigest()


def tower_digest(manifest: Manifest) -> str:
    """sha256 (hex) of the vision tower: of vision.onnx, and of the weights where they are kept beside it.

    The graph alone does not tell towers of one shape apart.
    """
    files = manifest.files
    if "vision_data" not in files:
        return files["vision"].sha256
    return hashlib.sha256(bytes.fromhex(files["vision"].sha256 + files["vision_data"].sha256)).hexdigest()
