"""An image to ask about, and terminals to ask on."""

from __future__ import annotations

import os
import re
import select
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-c", "from edge_llava.cli import main; main()"]


@pytest.fixture(scope="session")
def photo() -> Path:
    """The sample image, a JPEG of 640 x 480."""
    return Path(__file__).parents[1] / "data" / "table.jpg"


class Terminal:
    """A command on a pseudo terminal of 80 columns."""

    def __init__(self, *arguments: object, **variables: str) -> None:
        """Starts the command; without variables, the terminal is a dumb one."""
        import fcntl
        import pty
        import termios

        self._main, child = pty.openpty()
        fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        inherited = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLORTERM", "TMUX")}
        environment = inherited | {"TERM": "dumb", "COLUMNS": "80"} | variables
        command = [*COMMAND, *map(str, arguments)]
        self.process = subprocess.Popen(
            command, stdin=child, stdout=child, stderr=child, env=environment, start_new_session=True
        )
        os.close(child)
        self.text = ""

    def read_until(self, pattern: str, seconds: float = 60) -> str:
        """Reads until `pattern` occurs in what is new; returns what was read."""
        start, deadline = len(self.text), time.monotonic() + seconds
        while not re.search(pattern, self.text[start:]):
            assert time.monotonic() < deadline, f"no {pattern!r} in {self.text[start:]!r}"
            if select.select([self._main], [], [], 0.1)[0]:
                try:
                    self.text += os.read(self._main, 65536).decode(errors="replace")
                except OSError:  # the other side is closed
                    assert re.search(pattern, self.text[start:]), self.text[start:]
        return self.text[start:]

    def type(self, text: str) -> None:
        """Types a text; Enter is a carriage return, or a line feed. Surrogates are bytes, as in names of files."""
        os.write(self._main, text.encode("utf-8", "surrogateescape"))

    def paste(self, text: str) -> None:
        """Pastes a text as terminals do that mark what is pasted."""
        self.type(f"\x1b[200~{text}\x1b[201~")

    def close(self) -> int:
        """Waits for the end and returns the exit code."""
        try:
            return self.process.wait(30)
        finally:
            self.end()

    def end(self) -> None:
        """Ends the command, however far it is."""
        if self._main >= 0:
            self.process.kill()
            self.process.wait()
            os.close(self._main)
            self._main = -1


@pytest.fixture
def open_terminal() -> Iterator[Callable[..., Terminal]]:
    """open_terminal(*arguments, **variables) -> Terminal with `edge-llava *arguments`."""
    opened = []

    def run(*arguments: object, **variables: str) -> Terminal:
        opened.append(Terminal(*arguments, **variables))
        return opened[-1]

    yield run
    for terminal in opened:
        terminal.end()
