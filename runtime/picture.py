"""Opening a picture: anything a user has, as upright 8-bit RGB.

What becomes of each kind:
    alpha (RGBA, LA, PA)   dropped without compositing, as LLaVA's own `convert("RGB")` does
    palette, 1-bit, L      expanded; grey is replicated
    16-bit grey            scaled to 8 bits (65535 -> 255); PIL alone would clip it to white
    CMYK, YCbCr, Lab, HSV  converted by PIL
    animated               the first frame
    EXIF orientation       applied, unless asked not to (LLaVA's training code ignored it)
    float, 32-bit integer  refused: their range is not defined
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from edge_llava.errors import ImageError

PictureSource = str | os.PathLike[str] | bytes | Image.Image | np.ndarray
MAX_PIXELS = 178_956_970  # twice PIL's own warning limit: above it PIL refuses too
MAX_SIDE = 65_535  # what JPEG can hold; a longer strip would take minutes to pad and shows nothing

# What PIL's readers raise on damaged files; found by changing bytes of valid ones.
_DECODE_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError,
    RuntimeError, struct.error, zlib.error, MemoryError,
)  # fmt: skip
_ORIENTATION = 0x0112
# Not PIL's exif_transpose: it also writes the rest of the EXIF data anew, and fails where that is damaged.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_picture(source: PictureSource, *, apply_exif: bool = True) -> Image.Image:
    """Opens a picture as upright 8-bit RGB.

    Args:
        source: A path, the bytes of an image file, a PIL image, or a uint8 array (H, W, 3) in RGB order.
        apply_exif: Rotate by the EXIF orientation; False reproduces LLaVA's training code.

    Returns:
        A PIL image of mode RGB, without metadata: opened once more, it is the same.

    Raises:
        ImageError: If it is missing, empty, no image, truncated, too large, or of an undefined pixel format.
    """
    what = _describe(source)
    with _decoding(what), ExitStack() as files:
        image = _open(source, what, files)
        if image.width * image.height > MAX_PIXELS:
            raise ImageError(
                f"{what} has {image.width} x {image.height} pixels; the limit is {MAX_PIXELS}. Scale it down."
            )
        if 0 in image.size:
            raise ImageError(f"{what} has {image.width} x {image.height} pixels: there is nothing in it.")
        if max(image.size) > MAX_SIDE:
            raise ImageError(
                f"{what} has {image.width} x {image.height} pixels; the longest side is {MAX_SIDE}. Cut it into parts."
            )
        image.load()
        turn = _UPRIGHT.get(_orientation(image)) if apply_exif else None
        picture = _to_rgb(image if turn is None else image.transpose(turn), what)
    picture.info = {}  # PIL keeps the orientation there: whoever opens the picture again would turn it again
    return picture


def digest_pixels(picture: Image.Image) -> bytes:
    """sha256 of the size and the RGB bytes of an opened picture."""
    digest = hashlib.sha256(struct.pack("<QQ", *picture.size))
    digest.update(picture.tobytes())
    return digest.digest()


def _describe(source: PictureSource) -> str:
    if isinstance(source, (str, os.PathLike)):
        return str(source)
    return {bytes: "the image data", np.ndarray: "the array"}.get(type(source), "the image")


@contextmanager
def _decoding(what: str) -> Iterator[None]:
    try:
        yield
    except UnidentifiedImageError as error:
        raise ImageError(f"{what} is not an image that PIL can read. Convert it to JPEG or PNG.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # where warnings are errors
        raise ImageError(f"{what} is too large: {error}. Scale it down.") from error
    except _DECODE_ERRORS as error:
        raise ImageError(f"{what} cannot be decoded: {error}. Is the file complete?") from error


def _open(source: PictureSource, what: str, files: ExitStack) -> Image.Image:
    if isinstance(source, Image.Image):
        return source
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or 0 in source.shape:
            raise ImageError(f"an array must be uint8 (H, W, 3), not {source.dtype} {source.shape}.")
        return Image.fromarray(source)
    if isinstance(source, bytes):
        if not source:
            raise ImageError("the image data is empty.")
        return Image.open(io.BytesIO(source))
    path = Path(source)
    if not path.exists():
        raise ImageError(f"there is no file {what}.")
    if path.is_dir():
        raise ImageError(f"{what} is a directory, not a picture.")
    if path.is_file() and path.stat().st_size == 0:
        raise ImageError(f"{what} is empty.")
    return Image.open(files.enter_context(path.open("rb")))  # PIL would leave a file of several frames open


def _orientation(image: Image.Image) -> Any:
    """The EXIF orientation, 1 to 8 when it is valid; None where there is none or EXIF is damaged."""
    try:
        return image.getexif().get(_ORIENTATION)
    except _DECODE_ERRORS:
        return None


def _to_rgb(image: Image.Image, what: str) -> Image.Image:
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ImageError(f"{what} has {'float' if image.mode == 'F' else '32-bit'} pixels. Save it with 8 or 16 bits.")
    if image.mode == "P":
        # PIL warns about a palette's transparency; alpha is dropped on purpose here
        image = image.copy()
        image.info.pop("transparency", None)
    return image.convert("RGB")
