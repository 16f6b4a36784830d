"""A PNG's metadata: the XMP chunk is added or replaced, and every other byte stays.

Source: PNG specification (third edition), 5.3, 5.6 (texts may follow the pixels) and 11.3.3.4; XMP specification
part 3, 1.1.5.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from edge_llava.captioning.metadata import tiff, xmp

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TEXT_KINDS = (b"tEXt", b"zTXt", b"iTXt")
_XMP = b"XML:com.adobe.xmp\0"
_DESCRIPTION = b"Description\0"  # a keyword that the specification names
_MAX_PACKET_BYTES = 16 << 20


@dataclass(frozen=True)
class _Chunk:
    """Where a chunk lies in the file: from its length to its checksum."""

    kind: bytes
    start: int
    end: int


class PngFile:
    """A PNG file, and the chunks in it."""

    def __init__(self, data: bytes) -> None:
        """
        Args:
            data: The file. It may end early in its pixels.

        Raises:
            ValueError: If the chunks before the pixels are damaged.
        """
        self._data, self._chunks, position = data, list[_Chunk](), len(SIGNATURE)
        kind, has_pixels = b"", False
        while kind != b"IEND":
            kind = data[position + 4 : position + 8]
            end = position + 12 + int.from_bytes(data[position : position + 4], "big")
            has_pixels = has_pixels or kind == b"IDAT"
            if end > len(data) and has_pixels:
                break
            if end > len(data) or (kind == b"IHDR") != (not self._chunks):
                raise ValueError("its chunks are damaged")
            self._chunks.append(_Chunk(kind, position, end))
            position = end

    def find_description(self) -> str:
        """What the XMP, the EXIF data or the texts say of the image; empty if none does."""
        found = ""
        for chunk in self._xmp_chunks():
            found = found or xmp.find_description(_read_packet(self._content(chunk)))
        for chunk in self._chunks:
            if chunk.kind == b"eXIf":
                found = found or tiff.find_text(tiff.Directory(self._content(chunk)))
            elif chunk.kind in _TEXT_KINDS and self._starts(chunk, _DESCRIPTION):
                text = self._content(chunk)[len(_DESCRIPTION) :]
                found = found or text.decode("utf-8", "replace").strip()
        return found

    def with_description(self, text: str) -> bytes:
        """The file with the description in XMP, which stays where it is; new XMP stands before the pixels."""
        data, chunks = self._data, self._xmp_chunks()
        if not chunks:
            at = self._chunks[0].end
            return data[:at] + _xmp_chunk(xmp.new_packet(text)) + data[at:]
        for chunk in reversed(chunks):  # one, as a rule; readers of several disagree on which counts
            packet = xmp.set_description(_read_packet(self._content(chunk)), text)
            data = data[: chunk.start] + _xmp_chunk(packet) + data[chunk.end :]
        return data

    def _xmp_chunks(self) -> list[_Chunk]:
        return [chunk for chunk in self._chunks if chunk.kind == b"iTXt" and self._starts(chunk, _XMP)]

    def _starts(self, chunk: _Chunk, head: bytes) -> bool:
        return self._data.startswith(head, chunk.start + 8, chunk.end - 4)

    def _content(self, chunk: _Chunk) -> bytes:
        return self._data[chunk.start + 8 : chunk.end - 4]


def _read_packet(content: bytes) -> bytes:
    is_compressed = content[len(_XMP)] == 1
    packet = content[len(_XMP) + 2 :].split(b"\0", 2)[2]
    if not is_compressed:
        return packet
    inflate = zlib.decompressobj()
    packet = inflate.decompress(packet, _MAX_PACKET_BYTES)
    if not inflate.eof:
        raise ValueError("its XMP is cut or too large")
    return packet


def _xmp_chunk(packet: bytes) -> bytes:
    content = b"iTXt" + _XMP + b"\0\0\0\0" + packet  # not compressed, no language, no translated keyword
    return (len(content) - 4).to_bytes(4, "big") + content + zlib.crc32(content).to_bytes(4, "big")
