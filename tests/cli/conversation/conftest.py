"""A conversation on a terminal that can move its cursor, with the demo."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

CAPABLE = {"TERM": "xterm-256color"}


class Talk:
    """Types a line, and reads until the next prompt."""

    def __init__(self, terminal: Any) -> None:
        self.terminal = terminal

    def read(self, pattern: str = "") -> str:
        """Reads until the next prompt, after `pattern`; returns the words that are new, without escape sequences."""
        text = self.terminal.read_until(pattern + r"(?s:.*)\x1b\[\?2004h(?s:.*)\x1b\[\?25h")  # a prompt was drawn
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).replace("\r", "")

    def say(self, line: str, pattern: str = "") -> str:
        """As `read`, of a line that is typed before."""
        self.terminal.type(line + "\r")
        return self.read(r"\x1b\[\?2004l(?s:.*)" + pattern)  # the line was taken

    def leave(self) -> int:
        """Leaves by Ctrl-D; returns the exit code."""
        self.terminal.type("\x04")
        code: int = self.terminal.close()
        return code


@pytest.fixture
def talk(open_terminal: Callable[..., Any]) -> Callable[..., Talk]:
    """talk(*arguments, **variables) -> Talk with the demo, whose first prompt was read; answers are always the same."""

    def begin(*arguments: object, **variables: str) -> Talk:
        options = ("--temp", 0, "-t", 1, "-n", 12, "--no-profile")
        begun = Talk(open_terminal("chat", *arguments, *options, **(CAPABLE | variables)))
        begun.first = begun.read("Ctrl-D to leave")
        return begun

    return begin
