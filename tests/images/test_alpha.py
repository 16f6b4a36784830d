from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import PIL
import pytest
from PIL import Image

from edge_llava.home.image_files.opening import open_image

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
ALPHA = np.random.default_rng(1).integers(0, 256, (5, 7), dtype=np.uint8)
ON_WHITE = np.floor((RGB * (ALPHA[:, :, None] / 255) + 255 - ALPHA[:, :, None].astype(float)) + 0.5).astype(int)


def encode(image, format_, **options):
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def pixels(source, alpha="white"):
    image = open_image(source, alpha=alpha)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def png(depth, colour, rows, transparent):
    """A PNG with a tRNS chunk, bit by bit: Pillow does not write all kinds."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    width = len(rows[0]) * 8 // depth // {0: 1, 2: 3}[colour]
    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = chunk(b"IHDR", header) + chunk(b"tRNS", transparent) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize("format_", ["PNG", "WEBP", "TIFF", "TGA", "JPEG2000"])
def test_alpha_is_put_on_white(format_):
    options = {"lossless": True, "exact": True} if format_ == "WEBP" else {}
    data = encode(Image.fromarray(np.dstack([RGB, ALPHA])), format_, **options)
    assert np.abs(pixels(data) - ON_WHITE).max() <= 1
    np.testing.assert_array_equal(pixels(data, "drop"), RGB)


def test_avif_with_alpha():
    image = Image.new("RGBA", (64, 64), (200, 10, 10, 0))
    image.paste((200, 10, 10, 255), (0, 0, 32, 64))
    found = pixels(encode(image, "AVIF", quality=100))
    assert np.abs(found[:, :30] - [200, 10, 10]).max() <= 4
    assert np.abs(found[:, 34:] - 255).max() <= 4


def test_what_is_wholly_transparent_is_white_and_what_is_opaque_stays():
    rgba = np.dstack([RGB, np.zeros((5, 7), np.uint8)])
    assert (pixels(encode(Image.fromarray(rgba), "PNG")) == 255).all()
    rgba[:, :, 3] = 255
    np.testing.assert_array_equal(pixels(encode(Image.fromarray(rgba), "PNG")), RGB)


@pytest.mark.parametrize("premultiplied", [False, True])
def test_grey_with_alpha(premultiplied):
    image = Image.merge("LA", [Image.fromarray(RGB[:, :, 0]), Image.fromarray(ALPHA)])
    expected = np.repeat(ON_WHITE[:, :, :1], 3, axis=2)
    assert np.abs(pixels(encode(image, "PNG")) - expected).max() <= 1
    assert np.abs(pixels(image.convert("La") if premultiplied else image) - expected).max() <= 2
    np.testing.assert_array_equal(pixels(image, "drop"), np.repeat(RGB[:, :, :1], 3, axis=2))


def test_premultiplied_colours():
    image = Image.fromarray(np.dstack([RGB, ALPHA])).convert("RGBa")
    assert np.abs(pixels(image) - ON_WHITE).max() <= 2


@pytest.mark.parametrize("format_", ["PNG", "GIF", None])
@pytest.mark.parametrize("transparency", [1, bytes([255, 0, 255])])
def test_transparent_palette_entries(format_, transparency):
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    if format_ == "GIF" and isinstance(transparency, bytes):
        transparency = 1
    if format_ is None:
        image.info["transparency"] = transparency
    source = image if format_ is None else encode(image, format_, transparency=transparency)
    assert pixels(source).tolist() == [[[10, 20, 30], [255, 255, 255], [70, 80, 90]]]
    assert pixels(source, "drop").tolist() == [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]]


def test_a_palettes_half_transparent_entry():
    image = Image.new("P", (1, 1))
    image.putpalette([0, 0, 0])
    assert pixels(encode(image, "PNG", transparency=bytes([51]))).tolist() == [[[204, 204, 204]]]


def test_palette_with_alpha():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([1, 0])
    image = image.convert("PA")
    image.putalpha(Image.fromarray(np.array([[255, 0]], np.uint8)))
    assert pixels(image).tolist() == [[[40, 50, 60], [255, 255, 255]]]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (png(1, 0, [bytes([0b01000000])], b"\0\0"), [255, 255] + [255] * 6),
        (png(2, 0, [bytes([0b00011011])], b"\0\2"), [0, 85, 255, 255]),
        (png(4, 0, [bytes([0x01, 0x2F])], b"\0\1"), [0, 255, 34, 255]),
        (png(8, 0, [bytes([0, 1, 200, 255])], b"\0\xc8"), [0, 1, 255, 255]),
        (png(16, 0, [struct.pack(">4H", 0, 257, 514, 65535)], struct.pack(">H", 257)), [0, 255, 2, 255]),
    ],
    ids=["1 bit", "2 bits", "4 bits", "8 bits", "16 bits"],
)
def test_the_transparent_level_of_a_grey_png(data, expected):
    assert pixels(data)[0, :, 0].tolist() == expected


@pytest.mark.parametrize("depth", [8, 16])
def test_the_transparent_colour_of_an_rgb_png(depth):
    form, scale = (">6B", 1) if depth == 8 else (">6H", 257)
    row = struct.pack(form, *(scale * level for level in (1, 2, 3, 4, 5, 6)))
    data = png(depth, 2, [row], struct.pack(">3H", *(scale * level for level in (1, 2, 3))))
    assert pixels(data).tolist() == [[[255, 255, 255], [4, 5, 6]]]
    assert pixels(data, "drop").tolist() == [[[1, 2, 3], [4, 5, 6]]]


@pytest.mark.parametrize("transparency", [(300, 2, 3), "x", (1, 2), 4.5, -1])
@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1"])
def test_a_transparency_that_means_nothing_changes_nothing(mode, transparency):
    image = Image.new(mode, (2, 1))
    image.info["transparency"] = transparency
    assert pixels(image).shape == (1, 2, 3)
    assert image.info == {"transparency": transparency}


def test_16_bit_alpha():
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = struct.pack(">8H", 0, 0, 0, 0, 257, 514, 771, 65535)
    header = struct.pack(">IIBBBBB", 2, 1, 16, 6, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
    assert pixels(b"\x89PNG\r\n\x1a\n" + body).tolist() == [[[255] * 3, [1, 2, 3]]]


@pytest.mark.parametrize("format_", ["TGA", "BMP"])
def test_unused_room_for_alpha_is_not_transparency(format_):
    """Many programs write zeros there, and viewers show the image."""
    image = Image.fromarray(np.dstack([RGB, np.zeros((5, 7), np.uint8)]))
    np.testing.assert_array_equal(pixels(encode(image, format_)), RGB)


def test_the_callers_image_is_left_alone():
    image = Image.fromarray(np.dstack([RGB, ALPHA]))
    before = image.tobytes()
    open_image(image)
    assert (image.mode, image.tobytes()) == ("RGBA", before)


def tga_of_palette(image: Image.Image) -> bytes:
    """A TGA with a palette of four bytes per colour; not every version of Pillow writes its alpha."""
    palette = np.array(image.getpalette("RGBA"), np.uint8).reshape(-1, 4)[:, [2, 1, 0, 3]]
    header = struct.pack("<BBBHHBHHHHBB", 0, 1, 1, 0, len(palette), 32, 0, 0, *image.size, 8, 0x20)
    return header + palette.tobytes() + image.tobytes()


reads_tga_of_palette = pytest.mark.skipif(PIL.__version__ < "13", reason="Pillow 12 does not read these files")


@pytest.mark.parametrize(
    "write",
    [lambda image: image, lambda image: encode(image, "PNG"), pytest.param(tga_of_palette, marks=reads_tga_of_palette)],
)
def test_a_palette_of_rgba(write):
    """As Pillow's `quantize()` produces it from an RGBA image, and as a TGA file may contain it."""
    image = Image.new("RGBA", (8, 4), (200, 10, 10, 0))
    image.paste((200, 10, 10, 255), (0, 0, 4, 4))
    source = write(image.quantize())
    expected = np.full((4, 8, 3), 255)
    expected[:, :4] = [200, 10, 10]
    np.testing.assert_array_equal(pixels(source), expected)
    np.testing.assert_array_equal(pixels(source, "drop"), np.broadcast_to([200, 10, 10], (4, 8, 3)))
