"""A JPEG's metadata: its APP1 segments are edited, and every other byte stays.

Source: ITU T.81, B.1.1 (segments); CIPA DC-008 (EXIF), 4.7.2; XMP specification part 3, 1.1.3; CIPA DC-007 (MPF), 5.2.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from edge_llava.captioning.metadata import tiff, xmp

_EXIF, _XMP, _MPF = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"MPF\0"
_PHOTOSHOP, _IPTC_CAPTION = b"Photoshop 3.0\0", b"\x1c\x02\x78"
_APP0, _APP1, _APP2, _APP13, _START_OF_SCAN = 0xE0, 0xE1, 0xE2, 0xED, 0xDA
_MAX_PAYLOAD = 65_533  # of a segment, whose length has two bytes and counts itself
_MP_ENTRIES, _MP_SIZE_AT = 0xB002, 4  # the table of a file's images; where the size stands in the first one's row


@dataclass(frozen=True)
class Segment:
    """A marker segment: its code, what follows its length, and whether it is one of these by its first bytes."""

    code: int
    payload: bytes

    def starts(self, code: int, head: bytes) -> bool:
        """Whether it has this code and begins so."""
        return self.code == code and self.payload.startswith(head)


class JpegFile:
    """A JPEG file as its segments up to the first scan, and the rest."""

    def __init__(self, data: bytes) -> None:
        """
        Raises:
            ValueError: If the segments are damaged.
        """
        self._segments, position = list[Segment](), 2
        while True:
            if data[position : position + 1] != b"\xff":
                raise ValueError("its segments are damaged")
            while data[position + 1 : position + 2] == b"\xff":  # fill bytes, which mean nothing
                position += 1
            code, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
            if code == _START_OF_SCAN:
                break
            if length < 2 or position + 2 + length > len(data):
                raise ValueError("its segments are damaged")
            self._segments.append(Segment(code, data[position + 4 : position + 2 + length]))
            position += 2 + length
        self._rest = data[position:]

    def find_description(self) -> str:
        """What the XMP, the EXIF data or the IPTC data say of the image; empty if none does."""
        packet, exif = self._payload(_APP1, _XMP), self._payload(_APP1, _EXIF)
        found = xmp.find_description(packet) if packet else ""
        found = found or (tiff.find_text(tiff.Directory(exif)) if exif else "")
        iptc = self._payload(_APP13, _PHOTOSHOP) or b""
        at = iptc.find(_IPTC_CAPTION)
        if not found and at >= 0:
            n = int.from_bytes(iptc[at + 3 : at + 5], "big")
            found = iptc[at + 5 : at + 5 + n].decode("utf-8", "replace").strip()
        return found

    def with_description(self, text: str) -> bytes:
        """The file with the description in XMP and EXIF.

        Raises:
            ValueError: If there is no room in a segment, or other images in the file would be lost.
        """
        packet, exif = self._payload(_APP1, _XMP), self._payload(_APP1, _EXIF)
        described = tiff.Directory(exif or tiff.EMPTY).with_values({tiff.IMAGE_DESCRIPTION: tiff.text_value(text)})
        new = {
            _EXIF: described,
            _XMP: xmp.set_description(packet, text) if packet else xmp.new_packet(text),
        }
        segments = list(self._segments)
        n_before = len(self._to_bytes(segments))
        n_leading = next((i for i, one in enumerate(segments) if one.code != _APP0), len(segments))
        mpf_at = next((i for i, one in enumerate(segments) if one.starts(_APP2, _MPF)), len(segments))
        for head in (_XMP, _EXIF):
            segment = Segment(_APP1, head + new[head])
            if len(segment.payload) > _MAX_PAYLOAD:
                raise ValueError("there is not enough room in its metadata for the description")
            index = next((i for i, one in enumerate(segments) if one.starts(_APP1, head)), None)
            if index is None:
                segments.insert(n_leading, segment)
                mpf_at += 1
            elif index > mpf_at:
                raise ValueError("its metadata comes after the index of its images")
            else:
                segments[index] = segment
        if mpf_at < len(segments):
            segments[mpf_at] = _grow_first_image(segments[mpf_at], len(self._to_bytes(segments)) - n_before)
        return b"\xff\xd8" + self._to_bytes(segments) + self._rest

    def _payload(self, code: int, head: bytes) -> bytes | None:
        found = next((one for one in self._segments if one.starts(code, head)), None)
        return None if found is None else found.payload[len(head) :]

    @staticmethod
    def _to_bytes(segments: list[Segment]) -> bytes:
        return b"".join(
            b"\xff" + bytes((one.code,)) + (len(one.payload) + 2).to_bytes(2, "big") + one.payload for one in segments
        )


def _grow_first_image(segment: Segment, n_bytes: int) -> Segment:
    """The index of a file's images, where the first one has so many bytes more.

    The places of the others count from this segment, which moves with them.
    """
    index = segment.payload[len(_MPF) :]
    directory = tiff.Directory(index)
    entry = directory.entry(_MP_ENTRIES)
    start, size = directory.locate(entry) if entry is not None else (None, 0)
    if start is None or size < 16:
        raise ValueError("the index of its images is damaged")
    form = "<I" if index.startswith(b"II") else ">I"
    changed = bytearray(index)
    (n_before,) = struct.unpack_from(form, index, start + _MP_SIZE_AT)
    struct.pack_into(form, changed, start + _MP_SIZE_AT, n_before + n_bytes & 0xFFFF_FFFF)
    return Segment(segment.code, _MPF + bytes(changed))
