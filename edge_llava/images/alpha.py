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
        ImageError: If its pixels have no defined range (float, 32-bit).
    """
    if image.mode in ("I", "F"):
        raise ImageError(f"{what} has {'float' if image.mode == 'F' else '32-bit'} pixels. Save it with 8 or 16 bits.")
    key = image.info.get(_KEY)
    if image.mode.startswith("I;16"):
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
    if image.mode == "P" and isinstance(key, bytes):
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
    """16-bit grey scaled to 8 bits (65535 -> 255); Pillow alone would clip it to white."""
    grey = np.asarray(image)
    levels = ((grey.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    if isinstance(transparent, int):
        levels[grey == transparent] = 255
    return Image.fromarray(levels).convert("RGB")
