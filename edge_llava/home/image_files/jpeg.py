"""The structure of a JPEG file: how many scans it has, and whether its end is there."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import IO

from edge_llava.errors import ImageError

# A progressive JPEG is decoded scan by scan, each over all pixels, and a scan takes as little as 75 bytes: 20 MB of
# them keep a core busy for hours. Encoders write about ten. Source: LJT-01-003 of libjpeg-turbo's security audit
# advises such a limit; libtiff has the same number (LIBTIFF_JPEG_MAX_ALLOWED_SCAN_NUMBER).
MAX_SCANS = 100
MAX_SEGMENTS = 10_000  # tables, metadata and scans; photographs have some tens, 64 kB each at most
MAX_JPEG_BYTES = 1 << 30  # 178 megapixels of noise at the best quality take half of it
END_OF_IMAGE = b"\xff\xd9"

_START_OF_SCAN, _END = 0xDA, 0xD9
# As libjpeg looks for the next marker, in entropy-coded data and between segments: 0xFF and a code; 0xFF 0x00 is a
# data byte, 0xFF may be repeated, and restarts (D0 to D7), TEM and SOI have no length. One pass, whatever the bytes.
_MARKER = re.compile(rb"\xff[\x02-\xcf\xd9-\xfe]")


@dataclass(frozen=True)
class JpegStructure:
    """What the markers of a JPEG file say, up to the end of its first image.

    Attributes:
        n_scans: Scans whose header is there; `MAX_SCANS + 1` if there are more.
        n_segments: Segments that have a length; `MAX_SEGMENTS + 1` if there are more.
        is_complete: Whether the end-of-image marker is there.
        first_data: Where the data of the first scan begin.
        end: Where what can be decoded ends: before the end-of-image marker, or a segment that is there in part.
    """

    n_scans: int
    n_segments: int
    is_complete: bool
    first_data: int
    end: int


def read_structure(data: bytes) -> JpegStructure:
    """Follows the markers of a JPEG file. Segments are skipped by their length: thumbnails in them do not count."""
    position, n_scans, n_segments, first_data, end = 2, 0, 0, len(data), len(data)
    while n_scans <= MAX_SCANS and n_segments <= MAX_SEGMENTS:
        marker = _MARKER.search(data, position)
        if marker is None:
            break
        code, position = data[marker.end() - 1], marker.end()
        if code == _END:
            return JpegStructure(n_scans, n_segments, True, first_data, marker.start())
        position += max(2, int.from_bytes(data[position : position + 2], "big"))
        if position > len(data):
            end = marker.start()
            break
        n_segments += 1
        if code == _START_OF_SCAN:
            n_scans += 1
            first_data = min(first_data, position)
    return JpegStructure(n_scans, n_segments, False, first_data, end)


def check_jpeg(file: IO[bytes], what: str) -> tuple[IO[bytes], bool]:
    """Reads a JPEG file, and completes it where its end is missing.

    Returns:
        The file, in memory, and whether its end was missing: what is there is decoded, the rest is grey.

    Raises:
        ImageError: If it has more than `MAX_SCANS` scans, is too large, or ends before its first pixel.
    """
    data = file.read(MAX_JPEG_BYTES + 1)
    if len(data) > MAX_JPEG_BYTES:
        raise ImageError(f"{what} has more than {MAX_JPEG_BYTES} bytes, the limit for a JPEG. Save it smaller.")
    structure = read_structure(data)
    if structure.n_scans > MAX_SCANS:
        raise ImageError(f"{what} has more than {MAX_SCANS} scans, the limit. Save it again as a baseline JPEG.")
    if structure.n_segments > MAX_SEGMENTS:
        raise ImageError(f"{what} has more than {MAX_SEGMENTS} segments, the limit for a JPEG. Save it again.")
    if structure.is_complete:
        return io.BytesIO(data), False
    if structure.first_data >= structure.end:
        raise ImageError(f"{what} cannot be decoded: it ends before its first pixel. Is the file complete?")
    return io.BytesIO(data[: structure.end] + END_OF_IMAGE), True
