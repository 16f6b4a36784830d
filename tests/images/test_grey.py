"""Grey of more than 8 bits, as scanners, microscopes and cameras write it."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from edge_llava.errors import ImageError
from edge_llava.home.image_files.opening import open_image

SHADES = np.array([[0, 60, 128], [200, 254, 255]], np.uint8)


def tiff(bits, photometric, data, extra=()):
    """A TIFF of grey pixels in one strip: Pillow does not write all kinds."""
    entries = [
        (256, 3, SHADES.shape[1]), (257, 3, SHADES.shape[0]), (258, 3, bits), (259, 3, 1), (262, 3, photometric),
        (273, 4, 0), (277, 3, 1), (278, 3, SHADES.shape[0]), (279, 4, len(data)), *extra,
    ]  # fmt: skip
    start = 8 + 2 + 12 * len(entries) + 4
    rows = b"".join(struct.pack("<HHII", tag, kind, 1, start if tag == 273 else value) for tag, kind, value in entries)
    return struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + rows + bytes(4) + data


def pack_12(levels):
    """12 bits per pixel, the most significant first, each row padded to bytes."""
    rows = ["".join(f"{level:012b}" for level in row) for row in levels]
    return b"".join(int(row.ljust(-(-len(row) // 8) * 8, "0"), 2).to_bytes(-(-len(row) // 8), "big") for row in rows)


LEVELS_16 = SHADES.astype("<u2") * 257
LEVELS_12 = np.rint(SHADES * (4095 / 255)).astype(int)
PNG_16 = io.BytesIO()
Image.fromarray(LEVELS_16).save(PNG_16, "PNG")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (tiff(16, 1, LEVELS_16.tobytes()), SHADES),
        (tiff(16, 0, LEVELS_16.tobytes()), 255 - SHADES),
        (tiff(8, 0, SHADES.tobytes()), 255 - SHADES),
        (tiff(12, 1, pack_12(LEVELS_12)), SHADES),
        (PNG_16.getvalue(), SHADES),
        (b"P5 3 2 65535\n" + LEVELS_16.astype(">u2").tobytes(), SHADES),
        (b"P5 3 2 4095\n" + LEVELS_12.astype(">u2").tobytes(), SHADES),
        (b"P2 3 2 4095\n" + " ".join(map(str, LEVELS_12.flat)).encode(), SHADES),
    ],
    ids=["tiff16", "tiff16-white-is-0", "tiff8-white-is-0", "tiff12", "png16", "pgm16", "pgm12", "plain-pgm12"],
)
def test_levels_are_scaled_to_8_bits(data, expected):
    image = open_image(data)
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), np.repeat(expected[:, :, None], 3, axis=2))


@pytest.mark.parametrize(
    "data",
    [tiff(16, 1, LEVELS_16.tobytes(), [(339, 3, 2)]), tiff(32, 1, LEVELS_16.astype("<u4").tobytes())],
    ids=["signed", "32-bit"],
)
def test_grey_without_a_defined_range_is_refused(data):
    with pytest.raises(ImageError, match="has 32-bit pixels"):
        open_image(data)


def test_large_images_are_scaled_strip_by_strip():
    levels = np.random.default_rng(0).integers(0, 65536, (3, 700_000), dtype=np.uint16)[:, :60_000]
    tall = np.ascontiguousarray(np.vstack([levels] * 20))
    found = np.asarray(open_image(Image.fromarray(tall)))[:, :, 0]
    np.testing.assert_array_equal(found, np.rint(tall / 257).astype(np.uint8))
