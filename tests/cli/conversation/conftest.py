"""A conversation on a terminal that can move its cursor, with the demo."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from edge_llava import demo
from edge_llava.bundle.bundle import Bundle, open_bundle
from edge_llava.cli.conversation.conversation import Conversation, Manners
from edge_llava.cli.conversation.kept import keep_conversation
from edge_llava.cli.conversation.model_slot import ModelSlot
from edge_llava.runtime.model import LlavaModel
from edge_llava.runtime.options import EngineOptions, SamplingOptions

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


@pytest.fixture
def conversation(home: object) -> Iterator[Conversation]:
    """A conversation with the demo that is kept, without a terminal."""

    def open_one(bundle: Bundle) -> LlavaModel:
        return LlavaModel(bundle, EngineOptions(cache=False))

    manners = Manners("white", tuned=False, has_preview=False, keep=keep_conversation)
    with ModelSlot(open_one(open_bundle(demo.BUNDLE)), open_one) as slot:
        yield Conversation(slot, slot.model.session(SamplingOptions(temperature=0, max_new_tokens=4)), manners)
