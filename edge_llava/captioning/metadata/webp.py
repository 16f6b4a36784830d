"""A WebP's metadata: the XMP chunk is added or replaced, and every other byte stays.

Source: RFC 9649, 2.3 to 2.7.
"""

from __future__ import annotations

from edge_llava.captioning.metadata import tiff, xmp

_HAS_XMP, _HAS_ALPHA = 0x04, 0x10
_EXIF_HEAD = b"Exif\0\0"  # which some programs write, although WebP has none


class WebpFile:
    """A WebP file as its chunks, and what follows them."""

    def __init__(self, data: bytes, size: tuple[int, int], *, has_alpha: bool) -> None:
        """
        Args:
            data: The file.
            size: Width and height of the image, which a file without an extended header has in its pixels only.
            has_alpha: Whether it has an alpha channel, for the same reason.

        Raises:
            ValueError: If the chunks are damaged.
        """
        self._chunks, position = list[tuple[bytes, bytes]](), 12
        end = 8 + int.from_bytes(data[4:8], "little")
        if end > len(data):
            raise ValueError("its end is missing")
        while position < end:
            length = int.from_bytes(data[position + 4 : position + 8], "little")
            if position + 8 + length > end:
                raise ValueError("its chunks are damaged")
            self._chunks.append((data[position : position + 4], data[position + 8 : position + 8 + length]))
            position += 8 + length + length % 2
        self._rest = data[max(end, position) :]
        if not self._chunks or self._chunks[0][0] not in (b"VP8X", b"VP8 ", b"VP8L"):
            raise ValueError("its chunks are damaged")
        self._header = _extended_header(size, has_alpha) if self._chunks[0][0] != b"VP8X" else self._chunks.pop(0)[1]

    def find_description(self) -> str:
        """What the XMP or the EXIF data say of the image; empty if none does."""
        found = ""
        for kind, content in self._chunks:
            if kind == b"XMP ":
                found = found or xmp.find_description(content)
            elif kind == b"EXIF":
                found = found or tiff.find_text(tiff.Directory(content.removeprefix(_EXIF_HEAD)))
        return found

    def with_description(self, text: str) -> bytes:
        """The file with the description in XMP."""
        packet = next((content for kind, content in self._chunks if kind == b"XMP "), None)
        new = xmp.new_packet(text) if packet is None else xmp.set_description(packet, text)
        header = bytes((self._header[0] | _HAS_XMP,)) + self._header[1:]
        kept = [chunk for chunk in self._chunks if chunk[0] != b"XMP "]
        chunks = b"".join(map(_to_bytes, [(b"VP8X", header), *kept, (b"XMP ", new)]))
        return b"RIFF" + (4 + len(chunks)).to_bytes(4, "little") + b"WEBP" + chunks + self._rest


def _extended_header(size: tuple[int, int], has_alpha: bool) -> bytes:
    flags = _HAS_ALPHA if has_alpha else 0
    width, height = ((n - 1).to_bytes(3, "little") for n in size)
    return bytes((flags, 0, 0, 0)) + width + height


def _to_bytes(chunk: tuple[bytes, bytes]) -> bytes:
    kind, content = chunk
    return kind + len(content).to_bytes(4, "little") + content + b"\0" * (len(content) % 2)
