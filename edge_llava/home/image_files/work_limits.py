"""Limits on files that Pillow's readers take unreasonably long for, though they have few pixels."""

from __future__ import annotations

import io
import re
from typing import IO

from PIL import ImageFile, TiffImagePlugin

from edge_llava.errors import ImageError
from edge_llava.home.image_files.jpeg2000 import count_packets

MAX_TILES = 1 << 17  # of a TIFF: 178 megapixels in tiles of 48 x 48 fit; each costs 5 us
MAX_PACKETS = 1 << 25  # of a JPEG 2000; each costs 0.03 us, and 178 megapixels with 20 layers have a million
MAX_PYTHON_PIXELS = 1 << 22  # Pillow reads some kinds of PNM in Python, 1 us a pixel
MAX_PLAIN_BYTES = 1 << 24  # of a PNM of plain text

_COMMENT = re.compile(rb"#[^\r\n]*")
_TILE_WIDTH, _TILE_HEIGHT = 322, 323  # tags of a TIFF


def strip_comments(file: IO[bytes], what: str) -> IO[bytes]:
    """A PNM of plain text without its comments: Pillow's time for them grows with the square of their number.

    Raises:
        ImageError: If it is larger than 16 MB.
    """
    data = file.read(MAX_PLAIN_BYTES + 1)
    if len(data) > MAX_PLAIN_BYTES:
        raise ImageError(f"{what} is a PNM of more than {MAX_PLAIN_BYTES} bytes of plain text. Save it as PNG.")
    return io.BytesIO(_COMMENT.sub(b"", data))


def check_work(image: ImageFile.ImageFile, what: str) -> None:
    """Looks at the header of an opened file.

    Raises:
        ImageError: If decoding its pixels would take unreasonably long.
    """
    fault = None
    if image.format == "PPM" and image.tile[0][0] in ("ppm", "ppm_plain"):
        if image.width * image.height > MAX_PYTHON_PIXELS:
            fault = f"is a PNM of more than {MAX_PYTHON_PIXELS} pixels that is plain text or has an unusual maximum"
    elif isinstance(image, TiffImagePlugin.TiffImageFile) and _count_tiles(image) > MAX_TILES:
        fault = f"is a TIFF of more than {MAX_TILES} strips or tiles"
    elif image.format == "JPEG2000" and count_packets(_read_again(image)) > MAX_PACKETS:
        fault = f"is a JPEG 2000 of more than {MAX_PACKETS} packets"
    if fault is not None:
        raise ImageError(f"{what} {fault}. Save it as PNG.")


def _count_tiles(image: TiffImagePlugin.TiffImageFile) -> int:
    """Tiles or strips, as far as they are known before libtiff reads the file: a file has at most 65,535 strips."""
    width, height = (image.tag_v2.get(tag, 0) for tag in (_TILE_WIDTH, _TILE_HEIGHT))
    if not (isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0):
        return len(image.tile)
    return max(len(image.tile), -(-image.width // width) * -(-image.height // height))


def _read_again(image: ImageFile.ImageFile) -> bytes:
    if image.fp is None:
        return b""
    position = image.fp.tell()
    image.fp.seek(0)
    data = image.fp.read()
    image.fp.seek(position)
    return data
