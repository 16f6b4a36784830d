"""A PNG's metadata: the XMP chunk is added or replaced, and every other byte stays.

Source: PNG specification (third edition), 5.3 and 11.3.3.4; XMP specification part 3, 1.1.5.
"""

from __future__ import annotations

import zlib

from edge_llava.captioning.metadata import tiff, xmp

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TEXT_KINDS = (b"tEXt", b"zTXt", b"iTXt")
_XMP = b"XML:com.adobe.xmp\0"
_DESCRIPTION = b"Description\0"  # a keyword that the specification names
_MAX_PACKET_BYTES = 16 << 20


class PngFile:
    """A PNG file as its chunks up to the first pixels, and the rest."""

    def __init__(self, data: bytes) -> None:
        """
        Raises:
            ValueError: If the chunks are damaged.
        """
        self._chunks, position = list[tuple[bytes, bytes]](), len(SIGNATURE)
        while (kind := data[position + 4 : position + 8]) not in (b"IDAT", b"IEND"):
            length = int.from_bytes(data[position : position + 4], "big")
            if position + 12 + length > len(data):
                raise ValueError("its chunks are damaged")
            self._chunks.append((kind, data[position + 8 : position + 8 + length]))
            position += 12 + length
        if not self._chunks or self._chunks[0][0] != b"IHDR":
            raise ValueError("its chunks are damaged")
        self._rest = data[position:]

    def find_description(self) -> str:
        """What the XMP, the EXIF data or the texts say of the image; empty if none does."""
        packet = self._packet()
        found = xmp.find_description(packet) if packet is not None else ""
        for kind, content in self._chunks:
            if kind == b"eXIf":
                found = found or tiff.find_text(tiff.Directory(content))
            elif kind in _TEXT_KINDS and content.startswith(_DESCRIPTION):
                found = found or content[len(_DESCRIPTION) :].decode("utf-8", "replace").strip()
        return found

    def with_description(self, text: str) -> bytes:
        """The file with the description in XMP."""
        packet = self._packet()
        new = xmp.new_packet(text) if packet is None else xmp.set_description(packet, text)
        chunks = [chunk for chunk in self._chunks if not _is_xmp(chunk)]
        chunks.insert(1, (b"iTXt", _XMP + b"\0\0\0\0" + new))  # not compressed, no language, no translated keyword
        return SIGNATURE + b"".join(map(_to_bytes, chunks)) + self._rest

    def _packet(self) -> bytes | None:
        content = next((chunk[1] for chunk in self._chunks if _is_xmp(chunk)), None)
        if content is None:
            return None
        is_compressed = content[len(_XMP)] == 1
        packet = content[len(_XMP) + 2 :].split(b"\0", 2)[2]
        if not is_compressed:
            return packet
        inflate = zlib.decompressobj()
        packet = inflate.decompress(packet, _MAX_PACKET_BYTES)
        if not inflate.eof:
            raise ValueError("its XMP is cut or too large")
        return packet


def _is_xmp(chunk: tuple[bytes, bytes]) -> bool:
    return chunk[0] == b"iTXt" and chunk[1].startswith(_XMP)


def _to_bytes(chunk: tuple[bytes, bytes]) -> bytes:
    kind, content = chunk
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")
