"""Records a session on a terminal of 80 columns, and writes its last screen as an SVG picture for the README.

    pip install pyte
    python packaging/terminal_picture.py docs/images/terminal.svg

The commands run for real, in a terminal of their own with an empty data directory. An answer that is not the expected
one is an error, so that no picture shows what the program does not say.
"""

from __future__ import annotations

import os
import pty
import re
import select
import struct
import sys
import tempfile
import time
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ

import pyte
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

COLUMNS, ROWS = 80, 30
PROMPT = "$ "
# What is typed, and what must stand on the screen before the next line is.
SESSION = (
    ("edge-llava chat demo:1", "> "),
    ("What colour is the square?", "Blue."),
    ("How many objects are there?", "Three."),
    ("Is the green star to the left of the blue square?", "Yes."),
    ("/exit", PROMPT),
)
_FONTS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)  # rich's template loads them from another host


def record(home: str) -> pyte.Screen:
    """Types the session into a shell, and returns the screen at its end."""
    child, terminal = pty.fork()
    if child == 0:
        environment = {"PS1": PROMPT, "TERM": "xterm-256color", "COLORTERM": "truecolor", "LANG": "C.UTF-8"}
        places = {"EDGE_LLAVA_HOME": home, "HOME": home, "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
        os.execve("/bin/sh", ["sh", "-i"], environment | places)
    ioctl(terminal, TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    _read(terminal, stream, seconds=1)
    for line, expected in SESSION:
        os.write(terminal, line.encode() + b"\r")
        deadline = time.monotonic() + 60
        before = "\n".join(screen.display).count(expected)
        while "\n".join(screen.display).count(expected) <= before:
            if time.monotonic() > deadline:
                raise SystemExit(f"after {line!r}, {expected!r} did not come:\n" + "\n".join(screen.display))
            _read(terminal, stream, seconds=0.2)
        _read(terminal, stream, seconds=1.5)
    os.close(terminal)
    return screen


def _read(terminal: int, stream: pyte.ByteStream, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if select.select([terminal], [], [], left)[0]:
            stream.feed(os.read(terminal, 65536))


def draw(screen: pyte.Screen) -> str:
    """The screen as SVG, without empty lines at its end, and without fonts from elsewhere."""
    lines = [_line(screen, row) for row in range(ROWS)]
    while lines and not lines[-1].plain.strip(" $"):
        lines.pop()
    console = Console(width=COLUMNS, record=True, file=open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    for line in lines:
        console.print(line, no_wrap=True, overflow="crop")
    return _FONTS.sub("", console.export_svg(title="edge-llava", theme=MONOKAI))


def _line(screen: pyte.Screen, row: int) -> Text:
    text = Text()
    for column in range(COLUMNS):
        cell = screen.buffer[row][column]
        styles = [_colour(cell.fg), f"on {_colour(cell.bg)}" if cell.bg != "default" else "", "bold" * cell.bold]
        text.append(cell.data, " ".join(filter(None, styles)))
    return text


def _colour(name: str) -> str:
    if name == "default":
        return ""
    return (
        f"#{name}"
        if re.fullmatch(r"[0-9a-f]{6}", name)
        else name.replace("bright", "bright_").replace("brown", "yellow")
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as home:
        Path(sys.argv[1]).write_text(draw(record(home)), encoding="utf-8")
