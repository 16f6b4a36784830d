"""TIFF's directory of tags, which is also that of EXIF: read, and changed without moving what it points to.

Maker's notes point to places in the file by number. So nothing is moved: a changed directory is appended.
Source: TIFF 6.0, section 2.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

ASCII, BYTE, LONG = 2, 1, 4
IMAGE_DESCRIPTION, XMP_PACKET = 270, 700
EMPTY = b"II*\0\x08\0\0\0" + b"\0" * 6  # a directory without tags
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}  # bytes, by type
_MAX_BYTES = 2**32 - 1


@dataclass(frozen=True)
class Entry:
    """One tag.

    Attributes:
        tag: Its number.
        kind: The type of its values.
        count: How many there are.
        place: Four bytes: the values, or where they are.
    """

    tag: int
    kind: int
    count: int
    place: bytes


class Directory:
    """The first directory of a TIFF file, or of EXIF data."""

    def __init__(self, data: bytes) -> None:
        """
        Raises:
            ValueError: If this is not a TIFF file, or one for more than 4 GB, or the directory is damaged.
        """
        if data[:4] not in (b"II*\0", b"MM\0*"):
            raise ValueError("its tags are not those of a TIFF file of up to 4 GB")
        self._data, self._order = data, "<" if data[:2] == b"II" else ">"
        (start,) = self._unpack("I", 4)
        (n_entries,) = self._unpack("H", start)
        self._entries = [Entry(*self._unpack("HHI4s", start + 2 + 12 * index)) for index in range(n_entries)]
        (self._next,) = self._unpack("I", start + 2 + 12 * n_entries)

    def find(self, tag: int) -> bytes | None:
        """The bytes of a tag's values; None without the tag.

        Raises:
            ValueError: If they are not there.
        """
        for entry in self._entries:
            if entry.tag == tag:
                start, size = self.locate(entry)
                return entry.place[:size] if start is None else self._data[start : start + size]
        return None

    def entry(self, tag: int) -> Entry | None:
        """A tag; None if it is not there."""
        return next((entry for entry in self._entries if entry.tag == tag), None)

    def locate(self, entry: Entry) -> tuple[int | None, int]:
        """Where the values of a tag begin, None if they are in the directory itself; and their bytes.

        Raises:
            ValueError: If they would lie outside the file.
        """
        size = _SIZES.get(entry.kind, 1) * entry.count
        if size <= 4:
            return None, size
        (start,) = struct.unpack(f"{self._order}I", entry.place)
        if start + size > len(self._data):
            raise ValueError(f"its tag {entry.tag} lies outside the file")
        return start, size

    def with_values(self, values: dict[int, tuple[int, bytes]]) -> bytes:
        """The data with other values for some tags.

        Args:
            values: By tag: ASCII or BYTE, and the bytes.

        Raises:
            ValueError: If that would be more than 4 GB.
        """
        data = bytearray(self._data)
        entries = {entry.tag: entry for entry in self._entries if entry.tag not in values}
        for tag, (kind, value) in values.items():
            entries[tag] = Entry(
                tag, kind, len(value), value.ljust(4, b"\0") if len(value) <= 4 else self._append(data, value)
            )
        table = b"".join(
            struct.pack(f"{self._order}HHI4s", entry.tag, entry.kind, entry.count, entry.place)
            for _, entry in sorted(entries.items())
        )
        count, following = (
            struct.pack(f"{self._order}{form}", n) for form, n in (("H", len(entries)), ("I", self._next))
        )
        data[4:8] = self._append(data, count + table + following)
        if len(data) > _MAX_BYTES:
            raise ValueError("it would have more than 4 GB")
        return bytes(data)

    def _append(self, data: bytearray, block: bytes) -> bytes:
        """Appends at an even place, as TIFF asks for; returns the place."""
        data += b"\0" * (len(data) % 2)
        place = struct.pack(f"{self._order}I", len(data) & _MAX_BYTES)
        data += block
        return place

    def _unpack(self, form: str, at: int) -> tuple[Any, ...]:
        try:
            return struct.unpack_from(f"{self._order}{form}", self._data, at)
        except struct.error as error:
            raise ValueError("its directory of tags is damaged") from error


def text_value(text: str) -> tuple[int, bytes]:
    """A description as a tag's value: UTF-8 and a NUL, as other programs write it (EXIF itself knows ASCII only)."""
    return ASCII, text.encode() + b"\0"


def find_text(directory: Directory) -> str:
    """The ImageDescription; empty without one."""
    value = directory.find(IMAGE_DESCRIPTION) or b""
    return value.split(b"\0")[0].decode("utf-8", "replace").strip()
