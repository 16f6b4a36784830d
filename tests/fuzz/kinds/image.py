"""Image files of every format that is read, given to the library and sent to the server."""

from __future__ import annotations

import asyncio
import base64
import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import PIL.Image
from damage import NUMBERS, damage_bytes
from frame import Kind

from edge_llava.errors import ImageError
from edge_llava.home.image_files.formats import reads_heif
from edge_llava.runtime.vision.image import Image
from edge_llava.server.http.errors import RequestError
from edge_llava.server.http.limits import Limits
from edge_llava.server.http.memory_budget import MemoryBudget
from edge_llava.server.images.image_address import ImageAddress
from edge_llava.server.images.image_parts import ImageParts

_LIMITS = Limits(image_pixels=4_000_000)
_IMAGES = ImageParts(_LIMITS, None, Image.open)
_LOOP = asyncio.new_event_loop()
_PHONE = Path(__file__).parents[2] / "data" / "phone.heic"
_PNG_HEAD = 8
# Format, mode and how it is written.
_WAYS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("JPEG", "RGB", {}), ("JPEG", "L", {"progressive": True}), ("JPEG", "CMYK", {"progressive": True}),
    ("MPO", "RGB", {"save_all": True}),
    ("PNG", "RGBA", {}), ("PNG", "P", {"transparency": 3}), ("PNG", "I;16", {}), ("PNG", "RGB", {"save_all": True}),
    ("WEBP", "RGBA", {}), ("WEBP", "RGB", {"lossless": True}), ("WEBP", "RGB", {"save_all": True}),
    ("GIF", "P", {"transparency": 3}), ("GIF", "P", {"save_all": True}), ("BMP", "RGB", {}), ("BMP", "P", {}),
    ("TIFF", "RGB", {}), ("TIFF", "RGB", {"compression": "tiff_lzw"}), ("TIFF", "RGB", {"compression": "jpeg"}),
    ("TIFF", "1", {"compression": "group4"}), ("TIFF", "LA", {"compression": "tiff_adobe_deflate"}),
    ("AVIF", "RGBA", {}), ("AVIF", "L", {}), ("JPEG2000", "RGB", {}), ("JPEG2000", "LA", {}),
    ("PPM", "RGB", {}), ("PPM", "1", {}), ("TGA", "RGBA", {"compression": "tga_rle"}), ("TGA", "P", {}),
)  # fmt: skip


def make(directory: Path) -> Sequence[bytes]:
    """A small image in every way that Pillow writes one; plain PNM; HEIC where it is read."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 28, 4), np.uint8)
    seeds = [b"P3 2 2 255\n1 2 3 4 5 6 # x\n7 8 9 10 11 12", b"P2\n2 1 9\n0 9\n"]
    for format_, mode, how in _WAYS:
        first = PIL.Image.fromarray(pixels).convert("L" if mode == "I;16" else mode.replace("LA", "L")).convert(mode)
        more = {"append_images": [first.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)]} if "save_all" in how else {}
        exif = PIL.Image.Exif()
        exif[0x0112] = 6
        if format_ in ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "TIFF"):
            more["exif"] = exif
        file = io.BytesIO()
        first.save(file, format_, **how, **more)
        seeds.append(file.getvalue())
    return [*seeds, _PHONE.read_bytes()] if reads_heif() else seeds


def damage(content: bytes, rng: Random) -> bytes:
    """Other bytes anywhere, or numbers of a header; a PNG's checksums are mostly put right."""
    if rng.random() < 0.4:
        damaged = damage_bytes(content, rng)
    else:
        data = bytearray(content)
        for _ in range(rng.choice((1, 1, 2, 3))):
            n = rng.choice((1, 2, 2, 4, 4, 8))
            at = rng.randrange(min(len(data), rng.choice((30, 100, 400))))
            data[at : at + n] = (rng.choice(NUMBERS) % 2 ** (8 * n)).to_bytes(n, rng.choice(("big", "little")))
        damaged = bytes(data)
    return _with_checksums(damaged) if damaged[1:4] == b"PNG" and rng.random() < 0.8 else damaged


def _with_checksums(data: bytes) -> bytes:
    at, out = _PNG_HEAD, data[:_PNG_HEAD]
    while at + 12 <= len(data):
        (n,) = struct.unpack_from(">I", data, at)
        chunk = data[at + 4 : at + 8 + n]
        if len(chunk) < 4 + n:
            break
        out += data[at : at + 4] + chunk + struct.pack(">I", zlib.crc32(chunk))
        at += 12 + n
    return out + data[at:]


def read(directory: Path, content: bytes) -> None:
    """Sends it to the server, whose limit of pixels holds, and opens it as a file."""
    path = directory / "image"
    path.write_bytes(content)
    address = ImageAddress(base64.b64encode(content).decode(), "image")
    with MemoryBudget(_LIMITS.held_bytes).open() as share:
        _LOOP.run_until_complete(_IMAGES.open([address], share))
    assert Image.open(path).pixels.mode == "RGB"


KIND = Kind(n_cases=700, make=make, damage=damage, read=read, errors=(ImageError, RequestError))
