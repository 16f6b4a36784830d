from __future__ import annotations

import io
import struct
import tracemalloc
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from edge_llava.errors import ImageError
from edge_llava.home.image_files.opening import MAX_SIDE, open_image

ORIENTATION = 0x0112


@pytest.fixture
def rgb(noise):
    return noise(7, 5)


def encode(image: Image.Image, format_: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def pixels(source: object, **options: object) -> np.ndarray:
    image = open_image(source, **options)
    assert image.mode == "RGB"
    return np.asarray(image)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims to be large: signature, IHDR (8-bit RGB), a few compressed bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP"])
def test_exif_orientation(rgb, orientation, format_):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encode(Image.fromarray(rgb), format_, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert expected.size == ((5, 7) if orientation >= 5 else (7, 5))
    np.testing.assert_array_equal(pixels(data), np.asarray(expected))
    np.testing.assert_array_equal(pixels(open_image(data)), np.asarray(expected))  # it is turned once
    as_stored = np.asarray(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(pixels(data, apply_exif=False), as_stored)
    np.testing.assert_array_equal(pixels(open_image(data, apply_exif=False)), as_stored)


def test_exif_orientation_turns_the_known_way(rgb):
    """6 means that the camera's right side is up, so the image must be rotated clockwise."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    np.testing.assert_array_equal(pixels(encode(Image.fromarray(rgb), "PNG", exif=exif)), np.rot90(rgb, -1))


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_orientation_that_does_not_exist(rgb, value):
    exif = Image.Exif()
    exif[ORIENTATION] = value
    np.testing.assert_array_equal(pixels(encode(Image.fromarray(rgb), "PNG", exif=exif)), rgb)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(40))
def test_damaged_exif(seed):
    """PIL reads it lazily and its errors are of many types; the image itself is whole and must open."""
    exif = Image.Exif()
    exif[ORIENTATION], exif[0x010F], exif[0x011A] = 6, "maker", 72.0
    exif.get_ifd(0x8769)[0x9003] = "2020:01:01 00:00:00"
    exif.get_ifd(0x8825)[2] = (1.0, 2.0, 3.0)
    raw, random = bytearray(exif.tobytes()), np.random.default_rng(seed)
    for position in random.integers(6, len(raw), 3):
        raw[position] = random.choice([0, 1, 2, 3, 5, 7, 10, 12, 255])
    if seed % 4 == 0:
        raw = raw[: random.integers(1, len(raw))]
    image = open_image(encode(Image.new("RGB", (8, 5), (9, 8, 7)), "JPEG", exif=bytes(raw)))
    assert image.size in {(8, 5), (5, 8)}
    assert np.ptp(np.asarray(image), axis=(0, 1)).tolist() == [0, 0, 0]


def test_exif_with_a_text_for_a_fraction(rgb):
    """Such a tag can be read, but makes PIL's exif_transpose fail, which rewrites all tags."""
    entries = struct.pack("<HHIHH", ORIENTATION, 3, 1, 6, 0) + struct.pack("<HHI4s", 0x011A, 2, 4, b"abc\0")
    raw = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + bytes(4)
    data = encode(Image.fromarray(rgb), "PNG", exif=raw)
    with pytest.raises(TypeError):
        ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(pixels(data), np.rot90(rgb, -1))


@pytest.mark.parametrize("kind", ["path", "str", "bytes", "pil", "array", "strided array"])
def test_sources(kind, rgb, tmp_path):
    file = tmp_path / "picture.png"
    Image.fromarray(rgb).save(file)
    source = {
        "path": file,
        "str": str(file),
        "bytes": file.read_bytes(),
        "pil": Image.fromarray(rgb),
        "array": rgb,
        "strided array": np.asfortranarray(rgb),
    }[kind]
    np.testing.assert_array_equal(pixels(source), rgb)


def test_the_source_is_left_alone(rgb):
    image = Image.fromarray(rgb).quantize(8)
    image.info["transparency"] = b"\0\1"
    before = image.tobytes()
    open_image(image).putpixel((0, 0), (1, 2, 3))
    assert (image.mode, image.tobytes(), image.info["transparency"]) == ("P", before, b"\0\1")
    image = open_image(rgb)
    image.putpixel((0, 0), (1, 2, 3))
    assert rgb[0, 0].tolist() != [1, 2, 3]


@pytest.mark.parametrize("transparency", [None, 0, bytes([0, 128, 255])])
def test_palette(transparency):
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    options = {} if transparency is None else {"transparency": transparency}
    expected = [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]]
    assert pixels(encode(image, "PNG", **options), alpha="drop").tolist() == expected


def test_palette_with_alpha():
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([2, 1, 0])
    image = image.convert("PA")
    assert pixels(image).tolist() == [[[70, 80, 90], [40, 50, 60], [10, 20, 30]]]


@pytest.mark.parametrize("transparency", [None, 0])
def test_one_bit_and_grey(transparency):
    options = {} if transparency is None else {"transparency": transparency}
    bits = Image.fromarray(np.array([[0, 255, 0, 255]], np.uint8)).convert("1")
    grey = Image.fromarray(np.array([[0, 1, 200, 255]], np.uint8))
    assert pixels(encode(bits, "PNG", **options), alpha="drop").tolist() == [[[v] * 3 for v in (0, 255, 0, 255)]]
    assert pixels(encode(grey, "PNG", **options), alpha="drop").tolist() == [[[v] * 3 for v in (0, 1, 200, 255)]]


@pytest.mark.parametrize("format_", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled(format_):
    """PIL's own convert("RGB") would clip every level above 255 to white."""
    levels = np.array([[0, 127, 128, 129, 257, 32768, 65278, 65407, 65535]], np.uint16)
    expected = np.floor(levels / 65535 * 255 + 0.5).astype(int).tolist()
    assert expected == [[0, 0, 0, 1, 1, 128, 254, 255, 255]]
    found = pixels(encode(Image.fromarray(levels), format_))
    assert found.tolist() == [[[v] * 3 for v in expected[0]]]


def test_16_bit_gradient_keeps_every_8_bit_level():
    levels = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    assert pixels(Image.fromarray(levels))[:, :, 0].ravel().tolist() == list(range(256))


def test_big_endian_16_bit():
    image = Image.frombytes("I;16B", (2, 1), struct.pack(">HH", 65535, 257))
    assert pixels(image).tolist() == [[[255] * 3, [1] * 3]]


@pytest.mark.parametrize(("mode", "kind"), [("F", "float"), ("I", "32-bit")])
def test_undefined_ranges_are_refused(mode, kind):
    with pytest.raises(ImageError, match=f"^the image has {kind} pixels. Save it with 8 or 16 bits.$"):
        open_image(Image.new(mode, (2, 2)))


def test_cmyk_jpeg(rgb):
    data = encode(Image.fromarray(rgb).convert("CMYK"), "JPEG", quality=100)
    np.testing.assert_array_equal(pixels(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    assert (
        np.abs(pixels(encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")).astype(int) - [255, 0, 0]).max() <= 2
    )


@pytest.mark.parametrize("format_", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_frame_of_many(format_, tmp_path):
    frames = [Image.new("RGB", (4, 3), colour) for colour in ((200, 0, 0), (0, 200, 0), (0, 0, 200))]
    options = {"lossless": True} if format_ == "WEBP" else {}
    data = encode(frames[0], format_, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    path = tmp_path / "animated"
    path.write_bytes(data)
    for source in (data, path):  # a file with more frames must not stay open
        assert np.unique(pixels(source).reshape(-1, 3), axis=0).tolist() == [[200, 0, 0]]


def test_webp(rgb):
    np.testing.assert_array_equal(pixels(encode(Image.fromarray(rgb), "WEBP", lossless=True)), rgb)


def test_one_pixel():
    assert pixels(encode(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG")).tolist() == [[[1, 2, 3]]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.png", None, "there is no file {path}."),
        ("empty.png", b"", "{path} is empty."),
        ("text.png", b"hello, this is text\n", "{path} is not an image that PIL can read. Convert it to JPEG or PNG."),
    ],
)
def test_paths_that_are_not_images(name, content, message, tmp_path):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    for source in (path, str(path)):
        with pytest.raises(ImageError) as caught:
            open_image(source)
        assert str(caught.value) == message.format(path=path)


def test_directory(tmp_path):
    with pytest.raises(ImageError) as caught:
        open_image(tmp_path)
    assert str(caught.value) == f"{tmp_path} is a directory, not an image."


def test_bytes_that_are_not_an_image():
    with pytest.raises(ImageError, match=r"^the image data is empty.$"):
        open_image(b"")
    with pytest.raises(ImageError, match=r"^the image data is not an image that PIL can read."):
        open_image(b"GIF89")


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000])
def test_paths_that_no_system_accepts(name):
    with pytest.raises(ImageError):
        open_image(name)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format_", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "TGA"])
def test_changed_bytes(format_):
    """Whatever the file contains, it opens as RGB or raises an ImageError."""
    data, random = encode(Image.new("RGB", (24, 17), (5, 6, 7)), format_), np.random.default_rng(0)
    n_refused = 0
    for _ in range(400 if format_ == "TGA" else 100):  # most of whose bytes are pixels
        damaged = bytearray(data)
        for position in random.integers(0, len(data), 3):
            damaged[position] = random.integers(0, 256)
        try:
            assert open_image(bytes(damaged)).mode == "RGB"
        except ImageError:
            n_refused += 1
    assert n_refused > 0


@pytest.mark.parametrize("as_path", [True, False])
def test_decompression_bomb(as_path, tmp_path):
    data = png_header(50_000, 50_000)
    source: object = data
    what = "the image data"
    if as_path:
        source = tmp_path / "bomb.png"
        what = str(source)
        Path(what).write_bytes(data)
    tracemalloc.start()
    with pytest.raises(ImageError) as caught:
        open_image(source)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(caught.value).startswith(f"{what} is too large: Image size (2500000000 pixels)")
    assert str(caught.value).endswith("Scale it down.")
    assert peak < 1 << 20


def test_bomb_where_the_application_lifted_pils_limit(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(ImageError) as caught:
        open_image(png_header(50_000, 50_000))
    assert str(caught.value) == ("the image data has 50000 x 50000 pixels; the limit is 178956970. Scale it down.")


def test_strip_that_is_too_long():
    with pytest.raises(ImageError) as caught:
        open_image(png_header(1, MAX_SIDE + 1))
    assert str(caught.value) == ("the image data has 1 x 65536 pixels; the longest side is 65535. Cut it into parts.")


def test_pil_image_without_pixels():
    with pytest.raises(ImageError, match=r"^the image has 0 x 5 pixels: there is nothing in it.$"):
        open_image(Image.new("RGB", (0, 5)))


def test_other_types_are_refused():
    with pytest.raises(ImageError):
        open_image(12)


def test_where_warnings_are_errors_pil_still_gives_an_image_error(tmp_path):
    path = tmp_path / "large.png"
    Image.new("1", (10_000, 9_000)).save(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match="is too large"):
            open_image(path)
