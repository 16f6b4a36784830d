"""How much memory opening an image takes, known from its header."""

from __future__ import annotations

OPENED_BYTES_PER_PIXEL = 4  # of what `open_image` returns: Pillow keeps RGB in four bytes
# Peak of `open_image` in bytes per pixel, measured by a test, and a little more.
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
        width, height: In pixels, from the file's header.
        format_: `PIL.Image.Image.format`; None for the most of all.
    """
    return width * height * _DECODING_BYTES.get(format_ or "", max(_DECODING_BYTES.values()))
