"""A small view of an image on the terminal: by the terminal's own image protocol, else in half blocks of two colours.

Sources: https://sw.kovidgoyal.net/kitty/graphics-protocol/, https://iterm2.com/documentation-images.html,
https://vt100.net/docs/vt3xx-gp/chapter14.html (sixel)
"""

from __future__ import annotations

import base64
import io
import os
import shutil
import sys
from collections.abc import Callable, Mapping

import PIL.Image

_COLUMNS, _ROWS = 40, 12  # at most
_CELL = (8, 16)  # pixels; terminals scale what they are sent by the number of cells, and sixels hardly matter
_CHUNK = 4096  # kitty takes so many characters at a time
_SIXEL_COLOURS = 64
_SIXEL_TERMINALS = ("foot", "mlterm", "contour", "yaft")
_TRUE_COLOUR = ("truecolor", "24bit")
Draw = Callable[[PIL.Image.Image, int, int], str]
"""Draws an image on so many columns and rows."""


def show_preview(image: PIL.Image.Image) -> None:
    """Draws an image on stderr, where that is a terminal that can."""
    draw = choose_protocol(os.environ) if sys.stderr.isatty() else None
    if draw is None:
        return
    columns, rows = count_cells(image.size, shutil.get_terminal_size().columns)
    try:
        sys.stderr.write(draw(image, columns, rows) + "\n")
    except UnicodeEncodeError:  # the terminal has no half blocks
        return
    sys.stderr.flush()


def choose_protocol(environment: Mapping[str, str]) -> Draw | None:
    """How a terminal with these variables shows images; None: not at all. The terminal is not asked."""
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if term == "dumb" or environment.get("NO_COLOR"):
        return None
    is_direct = "TMUX" not in environment and not term.startswith(("screen", "tmux"))
    if is_direct:
        if "KITTY_WINDOW_ID" in environment or term in ("xterm-kitty", "xterm-ghostty") or program == "ghostty":
            return draw_kitty
        if program in ("iTerm.app", "WezTerm", "mintty") or environment.get("LC_TERMINAL") == "iTerm2":
            return draw_iterm
        if term.split("-")[0] in _SIXEL_TERMINALS:
            return draw_sixel
    if environment.get("COLORTERM") in _TRUE_COLOUR:
        return draw_blocks
    return draw_blocks_in_256 if "256color" in term else None


def count_cells(size: tuple[int, int], n_columns: int) -> tuple[int, int]:
    """Columns and rows for an image of (width, height) pixels, on a terminal of so many columns; a row is twice as high
    as a column is wide."""
    width, height = size
    scale = min(min(_COLUMNS, max(1, n_columns - 1)) / width, 2 * _ROWS / height)
    return max(1, round(width * scale)), max(1, round(height * scale / 2))


def draw_kitty(image: PIL.Image.Image, columns: int, rows: int) -> str:
    """By kitty's protocol: a PNG file in chunks."""
    data = base64.b64encode(_png(image, columns, rows)).decode()
    chunks = [data[start : start + _CHUNK] for start in range(0, len(data), _CHUNK)]
    parts = []
    for number, chunk in enumerate(chunks, 1):
        first = f"a=T,f=100,q=2,c={columns},r={rows}," if number == 1 else ""
        parts.append(f"\x1b_G{first}m={int(number < len(chunks))};{chunk}\x1b\\")
    return "".join(parts)


def draw_iterm(image: PIL.Image.Image, columns: int, rows: int) -> str:
    """By iTerm2's protocol: a PNG file at once."""
    png = _png(image, columns, rows)
    data = base64.b64encode(png).decode()
    return f"\x1b]1337;File=inline=1;size={len(png)};width={columns};height={rows}:{data}\x07"


def draw_sixel(image: PIL.Image.Image, columns: int, rows: int) -> str:
    """As sixels: bands of six rows, each colour of a band in a line of its own."""
    small = _shrink(image, columns, rows).quantize(_SIXEL_COLOURS)
    width, height = small.size
    palette, pixels = small.getpalette() or [], small.tobytes()
    colours = [palette[start : start + 3] for start in range(0, len(palette), 3)]
    head = "".join(f"#{n};2;{';'.join(str(round(c * 100 / 255)) for c in rgb)}" for n, rgb in enumerate(colours))
    bands = []
    for top in range(0, height, 6):
        band = [pixels[row * width : (row + 1) * width] for row in range(top, min(top + 6, height))]
        lines = []
        for colour in sorted(set().union(*band)):
            bits = (sum((row[x] == colour) << y for y, row in enumerate(band)) for x in range(width))
            lines.append(f"#{colour}" + "".join(chr(63 + bit) for bit in bits))
        bands.append("$".join(lines))
    return f'\x1bPq"1;1;{width};{height}{head}' + "-".join(bands) + "\x1b\\"


def draw_blocks(image: PIL.Image.Image, columns: int, rows: int) -> str:
    """In half blocks: the upper pixel in the foreground's colour, the lower one in the background's."""
    return _draw_blocks(image, columns, rows, lambda rgb: f"2;{rgb[0]};{rgb[1]};{rgb[2]}")


def draw_blocks_in_256(image: PIL.Image.Image, columns: int, rows: int) -> str:
    """As `draw_blocks`, with the 6 x 6 x 6 colours of older terminals."""

    def name(rgb: tuple[int, int, int]) -> str:
        red, green, blue = (round(value * 5 / 255) for value in rgb)
        return f"5;{16 + 36 * red + 6 * green + blue}"

    return _draw_blocks(image, columns, rows, name)


def _draw_blocks(image: PIL.Image.Image, columns: int, rows: int, name: Callable[[tuple[int, int, int]], str]) -> str:
    data = image.resize((columns, 2 * rows), PIL.Image.Resampling.BOX).tobytes()  # RGB
    pixels = [(data[start], data[start + 1], data[start + 2]) for start in range(0, len(data), 3)]
    lines = []
    for row in range(0, 2 * rows, 2):
        upper, lower = pixels[row * columns :], pixels[(row + 1) * columns :]
        cells = (f"\x1b[38;{name(upper[x])};48;{name(lower[x])}m▀" for x in range(columns))
        lines.append("".join(cells) + "\x1b[0m")
    return "\n".join(lines)


def _shrink(image: PIL.Image.Image, columns: int, rows: int) -> PIL.Image.Image:
    return image.resize((columns * _CELL[0], rows * _CELL[1]), PIL.Image.Resampling.BOX)


def _png(image: PIL.Image.Image, columns: int, rows: int) -> bytes:
    file = io.BytesIO()
    _shrink(image, columns, rows).save(file, "PNG")
    return file.getvalue()
