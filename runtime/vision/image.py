"""Images as the runtime takes them: opened, known by their pixels, and what they cost in memory."""

from __future__ import annotations

import hashlib
import struct

from PIL import Image

from edge_llava.runtime.vision.images.alpha import Alpha
from edge_llava.runtime.vision.images.opening import MAX_PIXELS, MAX_SIDE, PictureSource, is_truncated, open_picture

__all__ = [
    "MAX_PIXELS", "MAX_SIDE", "OPENED_BYTES_PER_PIXEL", "Alpha", "PictureSource", "decoding_bytes", "digest_pixels",
    "is_truncated", "open_picture",
]  # fmt: skip

OPENED_BYTES_PER_PIXEL = 4  # of what `open_picture` returns: Pillow keeps RGB in four bytes
_STRIP_BYTES = 1 << 22
# Peak of `open_picture` and `digest_pixels` in bytes per pixel, measured by a test, and a little more.
_DECODING_BYTES = {
    "JPEG": 12,  # 4, and while a progressive one is decoded up to 8 of coefficients
    "MPO": 12,
    "PNG": 12,  # 16-bit grey; 8 of RGBA, and of RGB that is turned
    "GIF": 10,
    "BMP": 10,
    "TGA": 10,
    "PPM": 12,
    "TIFF": 16,
    "WEBP": 20,  # libwebp keeps two canvases of RGBA
    "AVIF": 20,
    "HEIF": 20,
    "JPEG2000": 28,
}


def decoding_bytes(width: int, height: int, format_: str | None = None) -> int:
    """Memory that opening an image takes at its peak, `OPENED_BYTES_PER_PIXEL` of which stay; without the file's bytes.

    Args:
        width, height: In pixels, as the file's header has them.
        format_: `Image.format`; None for the most of all.
    """
    return width * height * _DECODING_BYTES.get(format_ or "", max(_DECODING_BYTES.values()))


def digest_pixels(picture: Image.Image) -> bytes:
    """sha256 of the size and the RGB bytes of an opened picture."""
    digest = hashlib.sha256(struct.pack("<QQ", *picture.size))
    n_rows = max(1, _STRIP_BYTES // (3 * picture.width))  # all bytes at once would be as large as the picture
    for top in range(0, picture.height, n_rows):
        digest.update(picture.crop((0, top, picture.width, min(top + n_rows, picture.height))).tobytes())
    return digest.digest()
