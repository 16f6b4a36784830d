"""What the user types: edited, completed and remembered on a terminal that can, a plain line elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from edge_llava.cli.display import note
from edge_llava.home.unicode_text import is_unicode

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.output import Output

    from edge_llava.cli.conversation.completion import Choices

_MARK = '"""'
_MORE = "... "
_Ask = Callable[[str], str]


class _DroppedLine(BaseException):
    """Ctrl-C at the prompt. A KeyboardInterrupt there is the signal to leave."""


class InputLine:
    """Reads what is asked, one question at a time."""

    def __init__(self, completions: Mapping[str, Choices | None], *, has_history: bool) -> None:
        """
        Args:
            completions: As of `CommandCompleter`.
            has_history: Whether lines are kept for the next conversation, and those of earlier ones are offered.
        """
        is_capable = sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self._ask: _Ask = _make_prompt(completions, has_history=has_history) if is_capable else _make_plain_prompt()

    def read(self, prompt: str) -> str | None:
        '''The next question, stripped; None at the end. Ctrl-C drops the line; """ begins and ends several lines.'''
        try:
            text = self._read_lines(prompt)
        except EOFError:
            note("")
            return None
        except _DroppedLine:
            return ""
        if not is_unicode(text):
            note("what was typed is not UTF-8 text")
            return ""
        return text.replace("\0", "")  # no path may contain it

    def _read_lines(self, prompt: str) -> str:
        line = self._ask(prompt).strip()
        if not line.startswith(_MARK):
            return line
        text = line.removeprefix(_MARK)
        while not text.endswith(_MARK):
            text += "\n" + self._ask(_MORE).rstrip()
        return text.removesuffix(_MARK).strip()


def _make_plain_prompt() -> _Ask:
    with contextlib.suppress(ImportError):  # Windows has its own
        import readline  # noqa: F401 (importing it adds history and editing to input())

    def ask(prompt: str) -> str:
        try:
            if sys.stdout.isatty():
                return input(prompt)
            click.echo(prompt, nl=False, err=True)
            return input()
        except KeyboardInterrupt:
            note("")
            raise _DroppedLine from None

    return ask


def _make_prompt(completions: Mapping[str, Choices | None], *, has_history: bool) -> _Ask:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
    from prompt_toolkit.shortcuts import CompleteStyle

    from edge_llava.cli.conversation.completion import CommandCompleter
    from edge_llava.cli.conversation.history import open_history

    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    session: PromptSession[str] = PromptSession(
        history=open_history(is_kept=has_history),
        completer=CommandCompleter(completions),
        complete_while_typing=False,
        complete_style=CompleteStyle.READLINE_LIKE,
        key_bindings=keys,
        interrupt_exception=_DroppedLine,
        enable_open_in_editor=False,
        output=_make_output(),
    )
    return session.prompt


def _make_output() -> Output:
    """A terminal that is not asked where its cursor is: the reply may arrive late, in the middle of an answer."""
    from prompt_toolkit.output import create_output
    from prompt_toolkit.output.vt100 import Vt100_Output

    output = create_output()
    if isinstance(output, Vt100_Output):
        output.enable_cpr = False
    return output


@contextmanager
def without_echo() -> Iterator[None]:
    """Inside the block, the terminal does not show what is typed; the next prompt does."""
    try:
        import termios
    except ImportError:  # Windows
        yield
        return
    try:
        before = termios.tcgetattr(sys.stdin)
    except (termios.error, OSError, ValueError):  # it is not a terminal
        yield
        return
    silent = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
    termios.tcsetattr(sys.stdin, termios.TCSANOW, silent)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, before)
