"""The conversation on a terminal: questions, and commands that begin with a slash."""

from __future__ import annotations

import contextlib

from edge_llava.cli.conversation.commands import add_images, completions, is_command, note_pending, run_command
from edge_llava.cli.conversation.conversation import Conversation
from edge_llava.cli.conversation.input_line import InputLine
from edge_llava.cli.conversation.pasted_paths import find_images, find_missing
from edge_llava.cli.display import note
from edge_llava.errors import ContextOverflow, EdgeLlavaError

_WAY_OUT = {
    "error": "/set on-full drop-oldest drops the oldest questions; /clear starts a new conversation here.",
    "drop-oldest": "It does not fit even without the earlier questions. /clear starts a new conversation here.",
}
_LEAVE = ("/exit", "/quit", "/bye", "exit", "quit")


def run_repl(conversation: Conversation, *, has_history: bool) -> None:
    """Asks on the terminal until Ctrl-D.

    Args:
        conversation: With the images of the first question.
        has_history: Whether what is typed is kept for the next conversation.
    """
    line = InputLine(completions(), has_history=has_history)
    note(f"{conversation.model.bundle.name}. Type a question, /help for commands, Ctrl-D to leave.")
    with contextlib.suppress(EdgeLlavaError):  # the question will say it
        conversation.prepare()
    while (text := line.read(_prompt(conversation))) is not None and text not in _LEAVE:
        try:
            _handle(conversation, text)
        except ContextOverflow as error:
            note(f"edge-llava: {error}")
            note(_WAY_OUT[conversation.session.on_full])
        except EdgeLlavaError as error:
            note(f"edge-llava: {error}")


def _handle(conversation: Conversation, text: str) -> None:
    if not text:
        return
    if is_command(text):
        run_command(conversation, text)
        return
    if (missing := find_missing(text)) is not None:
        note(f"there is no image {missing}; nothing was asked")
        return
    typed = find_images(text)
    add_images(conversation, typed.paths)
    if typed.paths and not typed.text:
        note_pending(conversation)
    elif text.startswith("/") and not typed.paths and not text.split()[1:]:
        note(f"there is no image {text}")
    else:
        conversation.ask(typed.text)


def _prompt(conversation: Conversation) -> str:
    n = len(conversation.pending)
    return f"[{n} image{'s' * (n > 1)}] > " if n else "> "
