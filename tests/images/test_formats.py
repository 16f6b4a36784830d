from __future__ import annotations

import errno
import io
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from edge_llava.errors import ImageError
from edge_llava.home.image_files import formats
from edge_llava.home.image_files.formats import FORMATS, is_heif, open_image_file
from edge_llava.home.image_files.opening import open_image
from edge_llava.home.installation import install_command

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
PHONE = Path(__file__).parents[1] / "data" / "phone.heic"
ADVICE = install_command("heic")


def encode(image, format_, **options):
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("format_", FORMATS)
def test_every_format_is_read(format_):
    options = {"quality": 100} if format_ in ("JPEG", "AVIF") else {}
    found = np.asarray(open_image(encode(Image.new("RGB", (40, 30), (200, 30, 40)), format_, **options)))
    assert found.shape == (30, 40, 3)
    assert np.abs(found.astype(int) - [200, 30, 40]).max() <= 4


def test_mpo_is_read_by_its_first_frame():
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((200, 0, 0), (0, 0, 200))]
    data = encode(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert np.abs(np.asarray(open_image(data)).astype(int) - [200, 0, 0]).max() <= 4


@pytest.mark.parametrize("format_", ["ICO", "ICNS", "PCX", "SGI", "DDS", "MSP", "PALM", "BLP", "SPIDER", "XBM"])
def test_other_formats_that_pillow_reads_are_refused(format_):
    mode = {"MSP": "1", "XBM": "1", "BLP": "P", "SPIDER": "F", "PALM": "P"}.get(format_, "RGB")
    size = (64, 64)
    data = encode(Image.new(mode, size), format_)
    with pytest.raises(ImageError):
        open_image(data)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (EPS, "a PostScript file"),
        (b"\xc5\xd0\xd3\xc6" + bytes(28) + EPS, "a PostScript file"),
        (b"8BPS\0\1" + bytes(40), "a Photoshop file"),
        (b"SIMPLE  =                    T", "a FITS file"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image"),
        (b"\xff\x0a\xfa\x1f", "a JPEG XL image"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
        (b'\xef\xbb\xbf<?xml version="1.0"?><svg/>', "an XML file, such as an SVG drawing"),
        (b"%PDF-1.7\n", "a PDF file"),
        (b"<!DOCTYPE html><p>404", "an HTML or XML file"),
    ],
)
def test_what_is_refused_is_named(data, kind, tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(data)
    with pytest.raises(ImageError) as caught:
        open_image(tmp_path / "holiday.jpg")
    expected = f"{tmp_path / 'holiday.jpg'} is {kind}, which is not read here. Convert it to JPEG or PNG."
    assert str(caught.value) == expected


@pytest.fixture
def ghostscript(tmp_path, monkeypatch):
    """A directory at the front of PATH with a `gs` that leaves a mark when it is started."""
    mark = tmp_path / "started"
    for name in ("gs", "gswin32c", "gswin64c", "gs.exe"):
        script = tmp_path / "bin" / name
        script.parent.mkdir(exist_ok=True)
        script.write_text(f"#!/bin/sh\ntouch '{mark}'\n")
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return mark


def test_the_trap_works(ghostscript):
    with pytest.raises(OSError, match=r"image|gs|Ghostscript"):
        Image.open(io.BytesIO(EPS)).load()
    assert ghostscript.exists()


def test_no_door_starts_ghostscript(ghostscript, tmp_path):
    """Runs in a separate process: Pillow remembers where Ghostscript is, and which readers there are."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "holiday.jpg").write_bytes(EPS)
    code = """
import io, sys
from pathlib import Path
from PIL import Image
import edge_llava
from edge_llava.conversion.calibration import read_images
from edge_llava.home.image_files.formats import open_image_file
from edge_llava.home.image_files.opening import open_image
from edge_llava.training.instructions.contact_sheet import _open
path = Path(sys.argv[1]) / "holiday.jpg"
data = path.read_bytes()
lazy = Image.open(path)
assert lazy.format == "EPS"
doors = [
    lambda: open_image(path), lambda: open_image(str(path)), lambda: open_image(data),
    lambda: open_image(io.BytesIO(data)), lambda: open_image(path.open("rb")), lambda: open_image(lazy),
    lambda: list(read_images([path])), lambda: open_image_file(io.BytesIO(data), "it"),
]
for door in doors:
    try:
        door()
    except edge_llava.ImageError as error:
        assert "not read here" in str(error), error
    else:
        raise AssertionError
assert _open(path) is None
"""
    subprocess.run([sys.executable, "-c", code, tmp_path / "folder"], check=True)
    assert not ghostscript.exists()


def test_an_image_that_its_caller_loaded_is_taken_whatever_its_format():
    image = Image.open(io.BytesIO(encode(Image.fromarray(RGB), "PCX")))
    with pytest.raises(ImageError, match="is of the format PCX, which is not read here"):
        open_image(image)
    image.load()
    np.testing.assert_array_equal(np.asarray(open_image(image)), RGB)


def test_stubs_are_refused():
    class Stub(ImageFile.StubImageFile):
        format = "GRIB"

        def _open(self):
            self._mode, self._size = "F", (1, 1)

        def _load(self):
            return None

    with pytest.raises(ImageError, match="GRIB, which is not read here"):
        open_image(Stub(io.BytesIO(b"GRIB")))


class Pipe:
    """A file object that can only be read."""

    def __init__(self, data):
        self._data = io.BytesIO(data)

    def read(self, n=-1):
        return self._data.read(n)


@pytest.mark.parametrize(
    "wrap", [io.BytesIO, bytearray, memoryview, Pipe, lambda data: io.BufferedReader(io.BytesIO(data))]
)
def test_files_and_bytes_of_all_kinds(wrap):
    np.testing.assert_array_equal(np.asarray(open_image(wrap(encode(Image.fromarray(RGB), "PNG")))), RGB)


def test_an_open_file_is_read_and_stays_open(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    with (tmp_path / "a.png").open("rb") as file:
        np.testing.assert_array_equal(np.asarray(open_image(file)), RGB)
        assert not file.closed
        with pytest.raises(ImageError, match=r"^the image file is empty. Rewind it with seek\(0\).$"):
            open_image(file)


def test_a_pipe_is_read(tmp_path):
    """As a shell's `chat <(...)` names it."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as file:
        file.write(encode(Image.fromarray(RGB), "PNG"))
    np.testing.assert_array_equal(np.asarray(open_image(f"/dev/fd/{reader}")), RGB)
    os.close(reader)


def test_a_file_opened_as_text_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    with (tmp_path / "a.txt").open() as file, pytest.raises(ImageError, match=r"gives str, not bytes. .* mode 'rb'"):
        open_image(file)


@pytest.mark.parametrize("source", [12, None, object(), {"a": 1}, 1.5])
def test_other_types_are_named(source):
    with pytest.raises(ImageError, match=f"a Pillow image or an array, not {type(source).__name__}.$"):
        open_image(source)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", True),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", True),
        (b"\0\0\0\x14ftypmsf1\0\0\0\0hevc", True),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", False),
        (b"\0\0\0\x18ftypavif\0\0\0\0mif1miaf", False),
        (b"\0\0\0\x18ftypmp42\0\0\0\0isommp42", False),
        (b"\xff\xd8\xff\xe0", False),
    ],
)
def test_heif_is_known_by_its_brands(head, expected):
    assert is_heif(head) is expected


def test_heic_with_its_package():
    pytest.importorskip("pillow_heif")
    before = dict(Image.OPEN)
    image = open_image(PHONE)
    assert (image.mode, image.size) == ("RGB", (224, 224))
    assert np.asarray(image).std() > 10
    assert image.tobytes() == open_image(PHONE.read_bytes()).tobytes() == open_image(image).tobytes()
    assert dict(Image.OPEN) == before, "Pillow stays as the application has it"


def test_heic_without_its_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as if it were not installed
    assert not formats.reads_heif()
    with pytest.raises(ImageError) as caught:
        open_image(PHONE)
    assert str(caught.value).startswith(f"{PHONE} is a HEIC image, which needs the package 'pillow_heif'.")
    assert ADVICE in str(caught.value)


def test_a_damaged_heic_is_an_image_error():
    pytest.importorskip("pillow_heif")
    data = PHONE.read_bytes()
    for end in (40, 200, len(data) // 2):
        with pytest.raises(ImageError):
            open_image(data[:end])


def tiff_of_tiles(side, tile):
    n = (-(-side // tile)) ** 2
    offsets, counts = 8 + tile * tile, 8 + tile * tile + 4 * n
    tags = [(256, 4, 1, side), (257, 4, 1, side), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)]
    tags += [(322, 3, 1, tile), (323, 3, 1, tile), (324, 4, n, offsets), (325, 4, n, counts)]
    body = bytes(tile * tile) + struct.pack("<I", 8) * n + struct.pack("<I", tile * tile) * n
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<I", counts + 4 * n) + body + struct.pack("<H", len(tags)) + entries + bytes(4)


def test_tiffs_of_very_many_tiles_are_refused():
    assert open_image(tiff_of_tiles(64, 16)).size == (64, 64)
    with pytest.raises(ImageError, match=r"is a TIFF of more than 131072 strips or tiles. Save it as PNG"):
        open_image(tiff_of_tiles(363, 1))


def with_layers(data, n, box=b""):
    changed = bytearray(data)
    place = changed.index(b"\xff\x52")
    changed[place + 6 : place + 8] = struct.pack(">H", n)
    return bytes(changed[:12]) + box + bytes(changed[12:])


@pytest.mark.parametrize("suffix", ["jp2", "j2k"])
def test_jpeg_2000_of_very_many_packets_is_refused(suffix):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG2000", tile_size=(16, 16), no_jp2=suffix == "j2k")
    data = buffer.getvalue()
    assert np.abs(np.asarray(open_image(data)).astype(int) - np.asarray(image)).max() == 0
    with pytest.raises(ImageError, match=r"is a JPEG 2000 of more than 33554432 packets. Save it as PNG"):
        open_image(with_layers(data, 65_535))
    if suffix == "jp2":  # a box before it that looks like a codestream of few layers
        decoy = b"\xff\x4f\xff\x51" + data[data.index(b"\xff\x51") + 2 : data.index(b"\xff\x52") + 14]
        box = struct.pack(">I4s", 8 + len(decoy), b"free") + decoy
        with pytest.raises(ImageError, match="packets"):
            open_image(with_layers(data, 65_535)[:12] + box + with_layers(data, 65_535)[12:])


def test_a_pnm_of_plain_text_with_very_many_comments_is_read_at_once():
    """Pillow takes 9 s for a megabyte of them, and four times that for two."""
    data = b"P2 2 2 # size\n255\n" + b"#\n" * 1_000_000 + b"1 2 # ...\n3 4"
    assert np.asarray(open_image(data))[:, :, 0].tolist() == [[1, 2], [3, 4]]


def test_large_pnms_that_pillow_reads_in_python_are_refused():
    assert open_image(b"P5 200 200 254\n" + bytes(40_000)).size == (200, 200)
    assert open_image(b"P6 3000 2000 255\n" + bytes(18_000_000)).size == (3000, 2000)
    for data in (b"P5 3000 2000 254\n" + bytes(6_000_000), b"P1 3000 2000\n" + b"1" * 6_000_000):
        with pytest.raises(ImageError, match="is a PNM of more than 4194304 pixels"):
            open_image(data)
    with pytest.raises(ImageError, match="is a PNM of more than 16777216 bytes of plain text"):
        open_image(b"P3 9 9 255\n" + b" " * (1 << 24))


def test_the_header_alone_is_read_on_opening():
    image = open_image_file(io.BytesIO(encode(Image.fromarray(RGB), "PNG")), "it")
    assert (image.size, len(image.tile)) == ((7, 5), 1)


def test_what_the_system_refuses_is_reported_as_unread_not_as_damaged(tmp_path):
    name = tmp_path / ("x" * 300)
    with pytest.raises(ImageError) as caught:
        open_image(name)
    assert str(caught.value) == f"{name} cannot be read: {os.strerror(errno.ENAMETOOLONG)}."


def test_a_closed_file_is_named():
    file = io.BytesIO(encode(Image.fromarray(RGB), "PNG"))
    file.close()
    with pytest.raises(ImageError, match=r"^the image file is closed. Open it again.$"):
        open_image(file)
