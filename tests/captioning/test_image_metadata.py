"""Descriptions in image files: other readers find them, and nothing else in the file changes."""

from __future__ import annotations

import io
import re
import zlib
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from edge_llava.captioning.metadata import tiff
from edge_llava.captioning.metadata.image_metadata import describe_image, describe_sidecar
from edge_llava.captioning.metadata.xmp import new_packet
from edge_llava.errors import ImageError

TEXT = 'A "red" <bus> & Ä 😀'
DC, RDF = "{http://purl.org/dc/elements/1.1/}", "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
NOTE = b"a note of the maker's"
KEYWORDS = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="uuid:1" xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:a="b/" a:x="1&#10;2">'
    "<dc:subject><rdf:Bag><rdf:li>tag</rdf:li></rdf:Bag></dc:subject>{}</rdf:Description></rdf:RDF></x:xmpmeta>"
)
WAYS = [
    ("JPEG", "RGB", {}),
    ("JPEG", "CMYK", {"progressive": True}),
    ("MPO", "RGB", {"save_all": True}),
    ("PNG", "RGBA", {}),
    ("PNG", "RGB", {"save_all": True}),
    ("WEBP", "RGB", {}),
    ("WEBP", "RGBA", {"lossless": True}),
    ("WEBP", "RGB", {"save_all": True}),
    ("TIFF", "RGB", {}),
    ("TIFF", "1", {"compression": "group4"}),
]


def encode(format_="JPEG", mode="RGB", how=None, **more):
    """A small image file, with an EXIF orientation and the bytes of a maker's note."""
    pixels = np.random.default_rng(0).integers(0, 256, (21, 29, 4), np.uint8)
    first = Image.fromarray(pixels).convert(mode)
    if how and how.get("save_all"):
        more["append_images"] = [first.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    exif.get_ifd(0x8769)[0x927C] = NOTE
    file = io.BytesIO()
    first.save(file, format_, exif=more.pop("exif", exif), **(how or {}), **more)
    return file.getvalue()


def describe(data, text=TEXT, *, replace=False):
    return describe_image(data, text, "img", replace=replace)


def read(data):
    """The XMP description and the EXIF data that Pillow finds."""
    image = Image.open(io.BytesIO(data))
    packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or image.tag_v2.get(700)
    tree = ElementTree.fromstring(packet)
    texts = [item.text for item in tree.findall(f".//{DC}description/{RDF}Alt/{RDF}li")]
    return texts, dict(image.getexif()), tree


def frames(data):
    image = Image.open(io.BytesIO(data))
    for index in range(getattr(image, "n_frames", 1)):
        image.seek(index)
        yield np.asarray(image).tobytes()


@pytest.mark.parametrize(("format_", "mode", "how"), WAYS)
def test_the_description_is_found_and_everything_else_is_kept(format_, mode, how):
    data = encode(format_, mode, how)
    described = describe(data)
    texts, exif, _ = read(described)
    assert texts == [TEXT]
    assert (exif[0x0112], exif[0x010F]) == (6, "Maker")
    assert (NOTE in described) == (NOTE in data) == (format_ != "TIFF")  # which Pillow writes without
    assert list(frames(described)) == list(frames(data))
    assert (exif.get(270) is not None) == (format_ in ("JPEG", "MPO", "TIFF"))
    assert describe(described, "other") is None
    assert describe(described, TEXT, replace=True) is None
    replaced = describe(described, "other", replace=True)
    assert read(replaced)[0] == ["other"]
    assert list(frames(replaced)) == list(frames(data))


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_other_properties_are_kept_to_the_byte(format_):
    packet = KEYWORDS.format("").encode()
    more = {"tiffinfo": {700: packet}} if format_ == "TIFF" else {"xmp": packet}
    if format_ == "PNG":
        more = {"pnginfo": png_text("XML:com.adobe.xmp", packet.decode(), compressed=True)}
    texts, _, tree = read(described := describe(encode(format_, **more)))
    assert texts == [TEXT]
    assert tree.find(f".//{DC}subject/{RDF}Bag/{RDF}li").text == "tag"
    assert {item.get(f"{RDF}about") for item in tree.iter(f"{RDF}Description")} == {"uuid:1"}
    assert packet.removesuffix(b"</rdf:RDF></x:xmpmeta>") in described


def png_text(key, text, *, compressed=False):
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_itxt(key, text, zip=compressed)
    return info


def exif_with(text):
    exif = Image.Exif()
    exif[270] = text
    return exif


IPTC = b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\x0c\x1c\x02\x78\x00\x07by hand"
HAS_ALREADY = [
    encode("JPEG", exif=exif_with("by hand")),
    encode("TIFF", exif=exif_with("by hand")),
    encode("PNG", exif=exif_with("by hand")),
    encode("WEBP", exif=exif_with("by hand")),
    encode("PNG", pnginfo=png_text("Description", "by hand")),
    encode("JPEG", xmp=KEYWORDS.format("<dc:description>by hand</dc:description>").encode()),
    encode("JPEG", xmp=KEYWORDS.replace("a:x", "dc:description").format("").encode()),
    encode("JPEG")[:2] + b"\xff\xed" + (len(IPTC) + 2).to_bytes(2, "big") + IPTC + encode("JPEG")[2:],
]


@pytest.mark.parametrize("data", HAS_ALREADY)
def test_what_people_wrote_is_kept(data):
    assert describe(data) is None


def test_descriptions_in_other_languages_are_replaced_together():
    items = '<dc:description><rdf:Alt><rdf:li xml:lang="{}">x</rdf:li></rdf:Alt></dc:description>'
    for empty in ("", "<dc:description/>", "<dc:description ></dc:description>"):
        packet = KEYWORDS.format(items.format("de") + empty + items.format("en"))
        assert read(describe(encode(xmp=packet.encode()), replace=True))[0] == [TEXT]
    packet = KEYWORDS.format("<dc:description/>")
    assert read(describe(encode(xmp=packet.encode())))[0] == [TEXT]


def test_blank_descriptions_of_cameras_count_as_none():
    exif = read(describe(encode(exif=exif_with("          "))))[1]
    assert exif[270] == TEXT.encode().decode("latin-1")  # Pillow reads UTF-8 so


def test_the_index_of_a_file_with_several_images_is_put_right():
    data = encode("MPO", "RGB", {"save_all": True})
    described = describe(data, "x" * 1000)
    sizes = []
    for content in (data, described):
        at = content.index(b"MPF\0") + 4
        (size, _), (_, offset) = (  # each row: attributes, size, place, two more
            [int.from_bytes(content[start + n : start + n + 4], "little") for n in (4, 8)]
            for start in (at + find_rows(content[at:]), at + find_rows(content[at:]) + 16)
        )
        sizes.append(size)
        assert content[at + offset : at + offset + 2] == b"\xff\xd8"
    assert sizes[1] - sizes[0] == len(described) - len(data)


def test_exif_of_the_other_byte_order():
    exif = exif_with("  ")
    exif.endian = ">"
    exif[0x0112] = 6
    data = encode(exif=exif)
    assert b"MM\0*" in data
    texts, found, _ = read(describe(data))
    assert (texts, found[0x0112], found[270].encode("latin-1").decode()) == ([TEXT], 6, TEXT)


def find_rows(index):
    directory = tiff.Directory(index)
    return directory.locate(directory.entry(0xB002))[0]


def test_a_text_that_xml_cannot_hold():
    assert read(describe(encode(), "a\0b\r\nc\x1b\ud800"))[0] == ["a\ufffdb\nc\ufffd\ufffd"]
    assert describe(encode(), " \n") is None


DOCTYPE = '<!DOCTYPE x [<!ENTITY a "aaaa">]>' + KEYWORDS.format("")
EMPTY = '<x:xmpmeta xmlns:x="x"><r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#"/></x:xmpmeta>'
FAULTY = [
    (encode("GIF"), "only into JPEG, PNG, WebP and TIFF files; img is none of these"),
    (b"\xff\xd8\xff", "cannot be given a description"),
    (encode()[:200], "its segments are damaged"),
    (encode("PNG")[:60], "its chunks are damaged"),
    (encode("WEBP")[:-30], "could not create decoder object"),
    (b"II+\0" + bytes(20), "up to 4 GB"),
    (b"II*\0\xff\0\0\0" + bytes(20), "its directory of tags is damaged"),
    (encode(xmp=DOCTYPE.encode()), "declares entities"),
    (encode(xmp=KEYWORDS.format("").encode("utf-16")), "cannot be given a description"),
    (encode(xmp=b"<a>"), "its XMP is not XML"),
    (encode(xmp=EMPTY.encode()), "has no rdf:RDF"),
    (encode(xmp=b"<a/>"), "has no rdf:RDF with content"),
]


@pytest.mark.parametrize(("data", "says"), FAULTY)
def test_files_that_cannot_be_described_say_what_helps(data, says):
    with pytest.raises(ImageError, match=rf"(?s)(?=.*img ).*({says}).*--write-metadata xmp"):
        describe(data)


def test_a_description_that_is_longer_than_a_segment():
    with pytest.raises(ImageError, match="there is not enough room in its metadata"):
        describe(encode(), "x" * 70_000)
    assert read(describe(encode("PNG"), "x" * 70_000))[0] == ["x" * 70_000]


def test_compressed_xmp_does_not_grow_without_end():
    bomb = zlib.compress(bytes(64 << 20))
    content = b"XML:com.adobe.xmp\0\x01\0\0\0" + bomb
    chunk = len(content).to_bytes(4, "big") + b"iTXt" + content + zlib.crc32(b"iTXt" + content).to_bytes(4, "big")
    with pytest.raises(ImageError, match="cut or too large"):
        describe(encode("PNG")[:33] + chunk + encode("PNG")[33:])


def png_chunk(kind, content):
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def with_late(*chunks):
    """A PNG with these chunks after its pixels, and a byte after its end."""
    data = encode("PNG")
    return data[:-12] + b"".join(png_chunk(*chunk) for chunk in chunks) + data[-12:] + b"\n"


XMP_HEAD = b"XML:com.adobe.xmp\0\0\0\0\0"


def test_xmp_after_the_pixels_of_a_png_is_changed_where_it_stands():
    packet = KEYWORDS.format("").encode()
    data = with_late((b"tEXt", b"Author\0me"), (b"iTXt", XMP_HEAD + packet), (b"tIME", b"\x07\xea\1\1\0\0\0"))
    described = describe(data)
    assert described.count(b"XML:com.adobe.xmp") == 1
    start, tail = data.index(b"iTXt") - 4, data[data.index(b"tIME") - 4 :]
    assert described.startswith(data[:start])
    assert described.endswith(tail)
    chunk = described[start : -len(tail)]
    assert chunk == png_chunk(b"iTXt", chunk[8:-4])
    assert packet.removesuffix(b"</rdf:RDF></x:xmpmeta>") in chunk
    image = Image.open(io.BytesIO(described))
    image.load()
    texts = ElementTree.fromstring(image.text["XML:com.adobe.xmp"]).findall(f".//{DC}description/{RDF}Alt/{RDF}li")
    assert [item.text for item in texts] == [TEXT]
    assert list(frames(described)) == list(frames(data))


def test_several_packets_of_a_png_say_the_same():
    early, late = KEYWORDS.format("").encode(), KEYWORDS.replace("tag", "late").format("").encode()
    data = with_late((b"iTXt", XMP_HEAD + late))
    data = data[:33] + png_chunk(b"iTXt", XMP_HEAD + early) + data[33:]
    described = describe(data)
    assert described.count(b"<dc:description>") == described.count(b"XML:com.adobe.xmp") == 2
    assert described.index(b">tag<") < described.index(b"IDAT") < described.index(b">late<")


@pytest.mark.parametrize(
    "chunk",
    [
        (b"tEXt", b"Description\0by hand"),
        (b"eXIf", exif_with("by hand").tobytes().removeprefix(b"Exif\0\0")),
        (b"iTXt", XMP_HEAD + KEYWORDS.format("<dc:description>by hand</dc:description>").encode()),
    ],
)
def test_descriptions_after_the_pixels_of_a_png_are_kept(chunk):
    assert describe(with_late(chunk)) is None


def test_a_png_that_ends_early_keeps_what_it_has():
    data = encode("PNG")[:-40]
    described = describe(data)
    assert (described[:33], described[-len(data[33:]) :]) == (data[:33], data[33:])
    assert described[33:].startswith((len(described) - len(data) - 12).to_bytes(4, "big") + b"iTXt" + XMP_HEAD)


def test_sidecars_are_merged():
    new = describe_sidecar(b"", TEXT, "a.xmp", replace=False)
    assert new.startswith(b'<?xml version="1.0" encoding="UTF-8"?>\n<x:xmpmeta')
    assert ElementTree.fromstring(new).find(f".//{DC}description/{RDF}Alt/{RDF}li").text == TEXT
    assert describe_sidecar(new, "other", "a.xmp", replace=False) is None
    history = KEYWORDS.format("").encode()
    merged = describe_sidecar(history, TEXT, "a.xmp", replace=False)
    added = re.sub(rb"<rdf:Description [^>]*><dc:description>.*?</rdf:Description>\n", b"", merged)
    assert added == history
    with pytest.raises(ImageError, match=r"a\.xmp is not XMP: .*Move it away"):
        describe_sidecar(b"some notes", TEXT, "a.xmp", replace=False)


def test_a_packet_alone_is_what_readers_of_xmp_ask_for():
    packet = new_packet("x").decode()
    assert packet.startswith('<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n<x:xmpmeta ')
    assert packet.endswith('</x:xmpmeta>\n<?xpacket end="w"?>')
