"""How many packets a JPEG 2000 file says it has: the decoder visits each, whether its data are there or not."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

# Source: ISO/IEC 15444-1 (ITU-T T.800), annex A: marker segments; annex I: boxes.
_CODESTREAM = b"\xff\x4f"
_FIRST_MARKER, _SIZE, _CODING_STYLE = 0xFF4F, 0xFF51, 0xFF52
_TILE_PART, _START_OF_DATA, _END = 0xFF90, 0xFF93, 0xFFD9


@dataclass(frozen=True)
class _Layout:
    """Of the image: its tiles, their size in pixels, and its components."""

    n_tiles: int
    tile_width: int
    tile_height: int
    n_components: int


def count_packets(data: bytes) -> int:
    """Packets of a JPEG 2000 file, at most, as its headers have it.

    Every layer of every precinct of every resolution of every component of every tile is one. Of a file that ends
    early, or is damaged, what its headers say up to there.
    """
    layout, n_of_tile, n_in_tile_parts = _Layout(0, 1, 1, 0), 0, 0
    for marker, position, is_main_header in _segments(data):
        try:
            if marker == _SIZE:
                layout = _read_layout(data, position)
            elif marker == _CODING_STYLE and is_main_header:
                n_of_tile = _packets_of_tile(data, position, layout)
            elif marker == _CODING_STYLE:
                n_in_tile_parts += _packets_of_tile(data, position, layout)
        except (struct.error, IndexError):
            break
    return layout.n_tiles * n_of_tile + n_in_tile_parts


def _find_codestream(data: bytes) -> int:
    """Where the codestream begins: at the file's beginning, or in a box of its own."""
    position = 0
    while data[position : position + 2] != _CODESTREAM:
        size, kind = struct.unpack_from(">I4s", data, position)
        header = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, position + 8)
            header = 16
        position += header if kind == b"jp2c" else max(size, header)
    return position


def _segments(data: bytes) -> Iterator[tuple[int, int, bool]]:
    """The marker segments of the codestream: marker, position, and whether it is in the main header."""
    try:
        position, tile_part_end = _find_codestream(data) + 2, 0
        while True:
            marker, length = struct.unpack_from(">HH", data, position)
            if marker == _END or marker < _FIRST_MARKER:
                return
            if marker == _START_OF_DATA:
                position = max(tile_part_end, position + 2)
                continue
            if marker == _TILE_PART:
                (size,) = struct.unpack_from(">I", data, position + 6)
                tile_part_end = position + size if size else len(data)
            yield marker, position, tile_part_end == 0
            position += 2 + max(2, length)
    except struct.error:  # the end
        return


def _read_layout(data: bytes, position: int) -> _Layout:
    right, bottom, left, top, width, height, tile_left, tile_top, n_components = struct.unpack_from(
        ">8IH", data, position + 6
    )
    width, height = max(1, width), max(1, height)
    n_across, n_down = -(-(right - tile_left) // width), -(-(bottom - tile_top) // height)
    return _Layout(n_across * n_down, min(width, right - left), min(height, bottom - top), n_components)


def _packets_of_tile(data: bytes, position: int, layout: _Layout) -> int:
    style, _, n_layers, _, n_levels = struct.unpack_from(">BBHBB", data, position + 4)
    sizes = data[position + 14 : position + 15 + n_levels] if style & 1 else b"\xff"
    n_packets = 0
    for level in range(n_levels + 1):
        size = sizes[min(level, len(sizes) - 1)]
        shrink = n_levels - level  # the first resolution is the smallest
        across = -(-layout.tile_width // (1 << (size & 15) << shrink))
        down = -(-layout.tile_height // (1 << (size >> 4) << shrink))
        n_packets += (across + 1) * (down + 1)  # a tile may begin within a precinct
    return int(n_packets * n_layers * layout.n_components)
