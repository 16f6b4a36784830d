"""Image files and XMP sidecars that are given a description."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
import PIL.Image
from damage import NUMBERS, damage_bytes
from frame import Kind

from edge_llava.captioning.metadata.image_metadata import describe_image, describe_sidecar
from edge_llava.captioning.metadata.xmp import new_packet
from edge_llava.errors import ImageError

_SIDECAR = b"<?xml"


def make(directory: Path) -> Sequence[bytes]:
    """Small images with XMP and EXIF in every format that holds them, one of them with two images; and a sidecar."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    first = PIL.Image.fromarray(pixels)
    exif = PIL.Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "by hand"
    seeds = [new_packet("by hand", for_sidecar=True)]
    for format_ in ("JPEG", "MPO", "PNG", "WEBP", "TIFF"):
        more = {"save_all": True, "append_images": [first]} if format_ == "MPO" else {}
        file = io.BytesIO()
        first.save(file, format_, exif=exif, **more)
        described = describe_image(file.getvalue(), "by machine", format_, replace=True)
        assert described is not None
        seeds.append(described)
    return seeds


def damage(content: bytes, rng: Random) -> bytes:
    """Other bytes anywhere, or numbers near the beginning, where the segments, chunks and directories are."""
    if rng.random() < 0.5:
        return damage_bytes(content, rng)
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 3))):
        n = rng.choice((1, 2, 4))
        at = rng.randrange(min(len(data), rng.choice((30, 200, 1000))))
        data[at : at + n] = (rng.choice(NUMBERS) % 2 ** (8 * n)).to_bytes(n, rng.choice(("big", "little")))
    return bytes(data)


def read(directory: Path, content: bytes) -> None:
    """Describes it anew, and what that gives once more."""
    describe = describe_sidecar if content.startswith(_SIDECAR) else describe_image
    for text in ("A bus.", "A <tram> & 😀"):
        content = describe(content, text, "img", replace=True) or content


KIND = Kind(n_cases=2000, make=make, damage=damage, read=read, errors=(ImageError,))
