"""Opening an image: anything a user has, as upright 8-bit RGB.

What becomes of each kind:
    alpha                  put on white, as viewers show it; or dropped, as LLaVA's own `convert("RGB")` does
    palette, 1-bit, L      expanded; grey is replicated
    12- and 16-bit grey    scaled to 8 bits (65535 -> 255); Pillow alone would clip it to white
    CMYK, YCbCr, Lab, HSV  converted by Pillow
    animated               the first frame
    EXIF orientation       applied, unless asked not to (LLaVA's training code ignored it)
    truncated              decoded as far as it goes; `is_truncated` says so
    huge JPEG              decoded at a half, a quarter or an eighth of its size, see `REDUCED_ABOVE_PIXELS`
    float, 32-bit integer  refused in files: their range is not defined
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from edge_llava.errors import ImageError
from edge_llava.home.image_files.alpha import Alpha, fix_transparent_level, to_rgb
from edge_llava.home.image_files.arrays import image_of_array
from edge_llava.home.image_files.formats import TRUNCATED, check_opened, open_image_file
from edge_llava.home.image_files.huge_pages import use_huge_pages

ImageSource = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image | np.ndarray[Any, Any]
MAX_PIXELS = 178_956_970  # twice Pillow's own warning limit: above it Pillow refuses too
MAX_SIDE = 65_535  # what JPEG can hold; a longer strip shows nothing
# Above it, libjpeg decodes a JPEG at a half (a quarter, an eighth) of its size: less memory and time for details that
# no tower sees. The result has at least a quarter of these pixels, and twice LLaVA-1.6's largest tile grid (672) on its
# shorter side. Up to 32 megapixels, the pixels are exactly those of the file.
REDUCED_ABOVE_PIXELS = 32_000_000
_MIN_REDUCED_SIDE = 1_344

# What Pillow's readers raise on damaged files; found by changing bytes of valid ones.
_DECODE_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError,
    RuntimeError, struct.error, zlib.error, MemoryError,
)  # fmt: skip
# Formats whose decoded rows are there when the file ends early. A JPEG is completed instead, see `check_jpeg`.
_DECODED_BY_ROWS = ("PNG", "GIF", "BMP", "DIB", "PPM", "TGA")
_ORIENTATION = 0x0112
# Not Pillow's exif_transpose: it also rewrites the rest of the EXIF data, and fails where that is damaged.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_image(source: ImageSource, *, apply_exif: bool = True, alpha: Alpha = "white") -> Image.Image:
    """Opens an image as upright 8-bit RGB.

    Args:
        source: A path, the bytes of an image file, a binary file object, a Pillow image, or an array: uint8, float of
            0 to 1 or bool, of shape (H, W), (H, W, 1), (H, W, 3) in RGB order, or (H, W, 4).
        apply_exif: Rotate by the EXIF orientation; False reproduces LLaVA's training code.
        alpha: What becomes of transparency: "white" or "drop".

    Returns:
        A Pillow image of mode RGB, without metadata but `is_truncated`: opened once more, it is the same.

    Raises:
        ImageError: If it is missing, empty, not an image of a format that is read here, too large, damaged, or of an
            undefined pixel format.
    """
    what = _describe(source)
    with _decoding(what), ExitStack() as files:
        image = _open(source, what, files)
        check_size(image, what)
        if image is not source and isinstance(image, ImageFile.ImageFile):  # a caller's own image keeps its size
            reduce_jpeg(image)
            use_huge_pages(image)
        fix_transparent_level(image)
        is_cut = _load(image) or bool(image.info.get(TRUNCATED))
        orientation = _orientation(image) if apply_exif else None  # it decodes a PNG, and must not be the first to
        upright = to_rgb(image, alpha, what)
        del image  # frees what was decoded, where it is not the result itself
        if orientation in _UPRIGHT:
            upright = upright.transpose(_UPRIGHT[orientation])
        elif upright is source:
            upright = upright.copy()
        elif isinstance(upright, ImageFile.ImageFile):
            upright = upright._new(upright.im)  # without the file and its EXIF; the pixels are not copied
    # without the orientation: an image that is opened again would be turned again
    upright.info = {TRUNCATED: True} if is_cut else {}
    return upright


def is_truncated(image: Image.Image) -> bool:
    """Whether the file of an image that `open_image` gave ended early: a part of it is grey, black or white."""
    return bool(image.info.get(TRUNCATED))


def check_size(image: Image.Image, what: str) -> None:
    """
    Raises:
        ImageError: If the image has no pixels, or too many.
    """
    size = f"{what} has {image.width} x {image.height} pixels"
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(f"{size}; the limit is {MAX_PIXELS}. Scale it down.")
    if 0 in image.size:
        raise ImageError(f"{size}: there is nothing in it.")
    if max(image.size) > MAX_SIDE:
        raise ImageError(f"{size}; the longest side is {MAX_SIDE}. Cut it into parts.")


def reduce_jpeg(image: ImageFile.ImageFile) -> None:
    """Has a JPEG of more than `REDUCED_ABOVE_PIXELS` decoded at a fraction of its size. Call it before `load()`."""
    if image.format not in ("JPEG", "MPO") or not image.tile:
        return
    scale = 1
    while (
        image.width * image.height > REDUCED_ABOVE_PIXELS * scale * scale
        and min(image.size) >= 2 * scale * _MIN_REDUCED_SIDE
        and scale < 8
    ):
        scale *= 2
    if scale > 1:
        image.draft(None, (image.width // scale, image.height // scale))


def _describe(source: ImageSource) -> str:
    if isinstance(source, (str, os.PathLike)):
        return str(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return "the image data"
    if isinstance(source, np.ndarray):
        return "the array"
    return "the image file" if hasattr(source, "read") else "the image"


@contextmanager
def _decoding(what: str) -> Iterator[None]:
    try:
        yield
    except UnidentifiedImageError as error:
        raise ImageError(f"{what} is not an image that PIL can read. Convert it to JPEG or PNG.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # where warnings are errors
        raise ImageError(f"{what} is too large: {error}. Scale it down.") from error
    except _DECODE_ERRORS as error:
        if isinstance(error, OSError) and error.strerror is not None:  # by the system, and not by Pillow
            raise ImageError(f"{what} cannot be read: {error.strerror}.") from error
        raise ImageError(
            f"{what} cannot be decoded: {str(error) or type(error).__name__}. Is the file complete?"
        ) from error


def _open(source: ImageSource, what: str, files: ExitStack) -> Image.Image:
    if isinstance(source, Image.Image):
        return check_opened(source, what)
    if isinstance(source, np.ndarray):
        return image_of_array(source)
    if isinstance(source, (str, os.PathLike)):
        file = files.enter_context(_open_path(Path(source), what))
        if file.seekable():
            return open_image_file(file, what)
        data = file.read()  # of a pipe
    elif isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
    elif hasattr(source, "read"):
        data = _read(source, what)
    else:
        raise ImageError(
            "an image must be a path, the bytes of a file, a binary file object, a Pillow image or an array, "
            f"not {type(source).__name__}."
        )
    if not data:
        at_end = " Rewind it with seek(0)." if hasattr(source, "read") else ""
        raise ImageError(f"{what} is empty.{at_end}")
    return open_image_file(io.BytesIO(data), what)


def _open_path(path: Path, what: str) -> IO[bytes]:
    if not path.exists():
        raise ImageError(f"there is no file {what}.")
    if path.is_dir():
        raise ImageError(f"{what} is a directory, not an image.")
    if path.is_file() and path.stat().st_size == 0:
        raise ImageError(f"{what} is empty.")
    return path.open("rb")


def _read(file: IO[bytes], what: str) -> bytes:
    if getattr(file, "closed", False):
        raise ImageError(f"{what} is closed. Open it again.")
    data = file.read()
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise ImageError(f"{what} gives {type(data).__name__}, not bytes. Open it with mode 'rb'.")
    return bytes(data)


def _load(image: Image.Image) -> bool:
    """Decodes the pixels.

    Returns:
        Whether the file ended before the last row.
    """
    try:
        image.load()
    except OSError as error:
        is_early_end = str(error).startswith("image file is truncated")
        if not (is_early_end and isinstance(image, ImageFile.ImageFile) and image.format in _DECODED_BY_ROWS):
            raise
        image.tile = []  # what is decoded is kept
        image.load()
        if image.getbbox() is None:  # nothing is
            raise
        return True
    return False


def _orientation(image: Image.Image) -> Any:
    """The EXIF orientation, 1 to 8 when it is valid; None where there is none or EXIF is damaged."""
    try:
        return image.getexif().get(_ORIENTATION)
    except _DECODE_ERRORS:
        return None
