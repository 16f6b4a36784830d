from __future__ import annotations

import io
import struct
import time

import numpy as np
import pytest
from PIL import Image, ImageFile

from edge_llava.errors import ImageError
from edge_llava.home.image_files import opening
from edge_llava.home.image_files.formats import open_image_file
from edge_llava.home.image_files.jpeg import MAX_SCANS, read_structure
from edge_llava.home.image_files.opening import is_truncated, open_image

SMOOTH = np.asarray(Image.radial_gradient("L").resize((160, 120)).convert("RGB"))


def encode(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, options.pop("format", "JPEG"), **options)
    return buffer.getvalue()


BASELINE = encode(Image.fromarray(SMOOTH), quality=90)
PROGRESSIVE = encode(Image.fromarray(SMOOTH), quality=90, progressive=True)
RESTARTS = encode(Image.fromarray(SMOOTH), quality=90, restart_marker_blocks=3)
KINDS = pytest.mark.parametrize("data", [BASELINE, PROGRESSIVE, RESTARTS], ids=["baseline", "progressive", "restarts"])


def last_scan(data):
    """From the marker of the last scan to the end-of-image marker."""
    return data[data.rindex(b"\xff\xda") : -2]


def with_scans(data, n):
    """A progressive JPEG with n more scans."""
    return data[:-2] + last_scan(data) * n + data[-2:]


def segment(code, content):
    return bytes([0xFF, code]) + (len(content) + 2).to_bytes(2, "big") + content


@KINDS
def test_scans_are_counted_and_the_end_is_found(data):
    expected = data.count(b"\xff\xda")
    structure = read_structure(data)
    assert (structure.n_scans, structure.is_complete) == (expected, True)
    assert expected == (10 if data is PROGRESSIVE else 1)


def test_scans_of_a_jpeg_in_a_tiff_are_bounded_by_libtiff():
    def tiff(jpeg):
        tags = [(256, 160), (257, 120), (258, 8), (259, 7), (262, 6), (273, 8), (277, 3), (278, 120), (279, len(jpeg))]
        entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
        return b"II*\0" + struct.pack("<I", 8 + len(jpeg)) + jpeg + struct.pack("<H", len(tags)) + entries + bytes(4)

    assert open_image(tiff(with_scans(PROGRESSIVE, 50))).size == (160, 120)
    with pytest.raises(ImageError):
        open_image(tiff(with_scans(PROGRESSIVE, 200)))


def test_what_is_within_segments_does_not_count():
    thumbnail = segment(0xE1, b"Exif\0\0" + with_scans(PROGRESSIVE, 90))
    data = BASELINE[:2] + thumbnail + segment(0xFE, b"\xff\xda" * 500) + BASELINE[2:]
    assert read_structure(data).n_scans == 1
    np.testing.assert_array_equal(np.asarray(open_image(data)), np.asarray(open_image(BASELINE)))


def test_what_follows_the_image_does_not_count():
    frames = encode(Image.fromarray(SMOOTH), format="MPO", save_all=True, append_images=[Image.new("L", (8, 8))] * 150)
    assert read_structure(frames).n_scans == 1
    assert open_image(frames).size == (160, 120)
    assert open_image(BASELINE + with_scans(PROGRESSIVE, 200)).size == (160, 120)  # a motion photo's film


@pytest.mark.parametrize("before", [b"\xff" * 7, b"\xff\xff", b"\0\1\2", b"\xff\0", b"\xff\xd3"])
def test_padding_before_markers_hides_no_scan(before):
    """libjpeg skips 0xFF bytes, garbage, stuffed bytes and stray restarts, and so must we."""
    scan = last_scan(PROGRESSIVE)
    data = PROGRESSIVE[:-2] + (before + scan) * 200 + PROGRESSIVE[-2:]
    assert read_structure(data).n_scans == MAX_SCANS + 1
    with pytest.raises(ImageError, match=r"^the image data has more than 100 scans, the limit. Save it again as"):
        open_image(data)


def test_as_many_scans_as_may_be_are_decoded():
    n = MAX_SCANS - read_structure(PROGRESSIVE).n_scans
    assert open_image(with_scans(PROGRESSIVE, n)).size == (160, 120)
    for source in (with_scans(PROGRESSIVE, n + 1), io.BytesIO(with_scans(PROGRESSIVE, n + 1))):
        with pytest.raises(ImageError, match="more than 100 scans"):
            open_image(source)


def test_scans_are_counted_at_every_door(tmp_path):
    path = tmp_path / "slow.jpg"
    path.write_bytes(with_scans(PROGRESSIVE, 200))
    with path.open("rb") as file, Image.open(path) as lazy:
        for open_it in (
            lambda: open_image(path),
            lambda: open_image(lazy),
            lambda: open_image_file(file, "it"),
        ):
            with pytest.raises(ImageError, match="more than 100 scans"):
                open_it()


@pytest.mark.parametrize(
    "filling", [b"\xff", b"\xff\0", b"\xff\xd0", b"\0", b"\xff\xfe\0\2", b"\xff\x01"], ids=lambda filling: filling.hex()
)
def test_structures_are_read_in_linear_time(filling):
    """Each of these is the worst case for some way of finding markers; quadratic time would take minutes."""
    started = time.process_time()
    read_structure(BASELINE[:-2] + filling * (20_000_000 // len(filling)) + BASELINE[-2:])
    assert time.process_time() - started < 20


def test_jpegs_of_very_many_segments_are_refused():
    with pytest.raises(ImageError, match="has more than 10000 segments"):
        open_image(BASELINE[:2] + segment(0xFE, b"") * 20_000 + BASELINE[2:])
    assert open_image(BASELINE[:2] + segment(0xFE, b"") * 9_000 + BASELINE[2:]).size == (160, 120)


@KINDS
@pytest.mark.parametrize("end", [-1, -2, -30, 0.9, 0.6])
def test_a_jpeg_whose_end_is_missing_is_decoded_as_far_as_it_goes(data, end):
    cut = data[: end if isinstance(end, int) else int(end * len(data))]
    image = open_image(cut)
    assert is_truncated(image)
    whole = np.asarray(open_image(data)).astype(int)
    found = np.asarray(image).astype(int)
    assert found.shape == whole.shape
    n_rows = 104 if end in (-1, -2) else 88 if end == -30 else 32
    if data is PROGRESSIVE:  # coarse everywhere, rather than missing at the bottom
        assert np.abs(found - whole).mean() < 12
    else:
        assert np.abs(found - whole)[:n_rows].max() == 0
    assert not is_truncated(open_image(data))


@KINDS
def test_cut_anywhere(data):
    """Cut after the first bytes of the first scan it is decoded, before it is an ImageError; never anything else."""
    first = data.index(b"\xff\xda") + 2
    first += int.from_bytes(data[first : first + 2], "big")
    for end in range(3, len(data), 5):
        try:
            image = open_image(data[:end])
        except ImageError:
            assert end <= first
        else:
            assert end > first
            assert is_truncated(image)


def test_what_is_missing_is_known_once_it_is_opened(tmp_path):
    (tmp_path / "a.jpg").write_bytes(BASELINE[:-2])
    opened = open_image(tmp_path / "a.jpg")
    assert is_truncated(open_image(opened))
    assert opened.info == {"truncated": True}
    with Image.open(tmp_path / "a.jpg") as lazy:
        assert is_truncated(open_image(lazy))
    header = open_image_file(io.BytesIO(BASELINE[:-2]), "it")
    assert is_truncated(header)
    assert is_truncated(open_image(header))


def test_pillows_own_switch_is_left_alone():
    open_image(BASELINE[:-2])
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    with pytest.raises(OSError, match="truncated"):
        Image.open(io.BytesIO(BASELINE[:-2])).load()


def test_a_truncated_photograph_is_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = open_image(encode(Image.fromarray(SMOOTH), exif=exif)[:-2])
    assert is_truncated(image)
    assert image.size == (120, 160)


@pytest.mark.parametrize("format_", ["PNG", "GIF", "BMP", "TGA", "PPM"])
def test_files_of_other_formats_that_end_early(format_):
    noise = np.random.default_rng(0).integers(1, 256, (64, 64, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    if format_ == "GIF":
        image = image.quantize(64)
    data = encode(image, format=format_)
    whole = np.asarray(open_image(data))
    found = open_image(data[: len(data) * 3 // 5])
    assert is_truncated(found)
    same = (np.asarray(found) == whole).all(axis=(1, 2))
    assert 0.3 < same.mean() < 1
    with pytest.raises(ImageError):
        open_image(data[:30])


@pytest.mark.parametrize("format_", ["WEBP", "TIFF", "AVIF", "JPEG2000"])
def test_formats_that_are_not_decoded_in_part(format_):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), format=format_)
    with pytest.raises(ImageError):
        open_image(data[: len(data) // 2])


def test_damage_within_a_png_is_still_an_error():
    data = bytearray(encode(Image.fromarray(SMOOTH), format="PNG"))
    data[len(data) // 3 : len(data) // 3 + 99] = bytes(99)
    with pytest.raises(ImageError, match="cannot be decoded"):
        open_image(bytes(data))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((8000, 4000), (8000, 4000)),  # 32 megapixels: unchanged
        ((8001, 4001), (4001, 2001)),
        ((16_100, 8_100), (4025, 2025)),  # more than 128 megapixels: a quarter
        ((14_000, 2_687), (14_000, 2_687)),  # a half would be narrower than twice the largest tile grid
        ((14_000, 2_688), (7_000, 1_344)),
    ],
)
@pytest.mark.filterwarnings("ignore:Image size")
def test_huge_jpegs_are_decoded_smaller(size, expected):
    """The header decides; nothing is decoded here."""
    data = bytearray(encode(Image.new("L", (16, 16))))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = size[1].to_bytes(2, "big") + size[0].to_bytes(2, "big")
    image = Image.open(io.BytesIO(bytes(data)))
    opening.reduce_jpeg(image)
    assert image.size == expected


def test_a_huge_jpeg_looks_the_same_and_is_upright(monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(Image.fromarray(SMOOTH), quality=95, exif=exif)
    exact = open_image(data)
    monkeypatch.setattr(opening, "REDUCED_ABOVE_PIXELS", 10_000)
    monkeypatch.setattr(opening, "_MIN_REDUCED_SIDE", 10)
    reduced = open_image(data)
    assert (exact.size, reduced.size) == ((120, 160), (60, 80))
    difference = np.asarray(exact.resize((60, 80), Image.Resampling.BOX)).astype(int) - np.asarray(reduced)
    assert np.abs(difference).max() <= 3
    assert is_truncated(open_image(data[:-2]))
    with Image.open(io.BytesIO(data)) as own:  # is its caller's, and keeps its size
        assert (open_image(own).size, own.size) == ((120, 160), (160, 120))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_large_jpeg_has_the_pixels_that_pillow_decodes(mode):
    """The pixels of an RGB image may be in our own memory."""
    image = Image.fromarray(SMOOTH).resize((1200, 1000)).convert(mode)
    data = encode(image, quality=90)
    expected = Image.open(io.BytesIO(data)).convert("RGB")
    found = open_image(data)
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))
    del image, expected
    for changed in (found.copy(), found.transpose(Image.Transpose.ROTATE_90)):
        changed.putpixel((0, 0), (1, 2, 3))
    found.putpixel((0, 0), (4, 5, 6))
    assert found.getpixel((0, 0)) == (4, 5, 6)
