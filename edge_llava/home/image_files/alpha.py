"""Decoded pixels of any kind as 8-bit RGB, with what is transparent on white."""

from __future__ import annotations

from typing import Literal

import numpy as np
from PIL import Image

from edge_llava.errors import ImageError

Alpha = Literal["white", "drop"]
"""What becomes of transparency: "white" puts the image on white, as viewers show it; "drop" shows the colours that lie
under it, whatever they are, as LLaVA's own `convert("RGB")` does."""

ALPHAS: tuple[Alpha, ...] = ("white", "drop")
_WHITE = (255, 255, 255)
_KEY = "transparency"  # of `Image.info`: a transparent colour, grey level or palette entry, or the palette's alpha
_ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")
# grey of 2 and 4 bits is spread over 8, its transparent level is left as it is in the file
_SPREAD = {"L;2": 85, "L;4": 17}
_TIFF_BITS, _TIFF_PHOTOMETRIC = 258, 262
_STRIP_PIXELS = 1 << 20


def fix_transparent_level(image: Image.Image) -> None:
    """States a PNG's transparent level or colour in the levels of the decoded pixels. Call it before `load()`."""
    tiles = getattr(image, "tile", None)
    key = image.info.get(_KEY)
    if image.format != "PNG" or not tiles or key is None:
        return
    rawmode = tiles[0][3]
    if rawmode in _SPREAD and isinstance(key, int):
        image.info[_KEY] = key * _SPREAD[rawmode]
    elif rawmode == "RGB;16B" and isinstance(key, tuple):
        image.info[_KEY] = tuple(level >> 8 for level in key)  # Pillow keeps the upper byte of each


def to_rgb(image: Image.Image, alpha: Alpha, what: str) -> Image.Image:
    """An image of mode RGB; the same one if it is that already.

    Args:
        image: Decoded; left as it is.
        alpha: What becomes of transparency.
        what: Names the image in errors.

    Raises:
        ImageError: If its pixels have no defined range (float, 32-bit, signed).
    """
    is_pnm_16 = image.mode == "I" and image.format == "PPM"  # Pillow scales its maximum to 65535
    if image.mode in ("I", "F") and not is_pnm_16:
        raise ImageError(f"{what} has {'float' if image.mode == 'F' else '32-bit'} pixels. Save it with 8 or 16 bits.")
    key = image.info.get(_KEY)
    if is_pnm_16 or image.mode.startswith("I;16"):
        return _grey_16(image, key if alpha == "white" else None)
    if alpha == "white" and (image.mode in _ALPHA_MODES or _has_key(image)):
        return _on_white(image)
    if image.mode == "RGB":
        return image
    if key is not None:  # Pillow would carry it over, or warn about it
        image = image.copy()
        image.info.pop(_KEY)
    if image.mode in ("RGBa", "La"):
        image = image.convert("RGBA" if image.mode == "RGBa" else "LA")
    return image.convert("RGB")


def _has_key(image: Image.Image) -> bool:
    key = image.info.get(_KEY)
    if image.mode == "P" and (isinstance(key, bytes) or (image.palette is not None and image.palette.mode == "RGBA")):
        return True
    if image.mode == "RGB":
        return isinstance(key, tuple) and len(key) == 3 and all(0 <= level <= 255 for level in key)
    return image.mode in ("1", "L", "P") and isinstance(key, int) and 0 <= key <= 255


def _on_white(image: Image.Image) -> Image.Image:
    rgba = image
    for mode in {"La": ("LA", "RGBA"), "PA": ("RGBA",)}.get(image.mode, ("RGBA",)):
        rgba = rgba.convert(mode) if rgba.mode != mode else rgba
    # many programs write 0 where the format has room for alpha and they have none
    if image.format in ("BMP", "DIB", "TGA") and rgba.getchannel("A").getextrema() == (0, 0):
        return rgba.convert("RGB")
    white = Image.new("RGB", image.size, _WHITE)
    white.paste(rgba, mask=rgba)
    return white


def _grey_16(image: Image.Image, transparent: object) -> Image.Image:
    """Grey of 12 or 16 bits scaled to 8 (65535 -> 255); Pillow alone would clip it to white."""
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    top = 4095 if tags.get(_TIFF_BITS) == (12,) else 65535
    levels = np.empty((image.height, image.width), np.uint8)
    n_rows = max(1, _STRIP_PIXELS // image.width)
    for first in range(0, image.height, n_rows):
        grey = np.asarray(image.crop((0, first, image.width, min(first + n_rows, image.height))))
        strip = levels[first : first + n_rows]
        strip[:] = (np.minimum(grey, top).astype(np.uint32) * 255 + top // 2) // top
        if isinstance(transparent, int):
            strip[grey == transparent] = 255
    if tags.get(_TIFF_PHOTOMETRIC) == 0:  # white is 0; Pillow inverts what has up to 8 bits only
        np.subtract(255, levels, out=levels)
    return Image.fromarray(levels).convert("RGB")
