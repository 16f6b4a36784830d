"""The conversation on a terminal: questions, and commands that begin with a slash."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_llava.cli.answer import read_answer
from edge_llava.cli.display import note, note_truncated
from edge_llava.cli.images import open_image
from edge_llava.cli.pace import measured_pace
from edge_llava.cli.tiles import note_tiles
from edge_llava.errors import ContextOverflow, EdgeLlavaError

if TYPE_CHECKING:
    from edge_llava.home.image_files.alpha import Alpha
    from edge_llava.runtime.dialogue.messages import ImageInput
    from edge_llava.runtime.dialogue.past_turns import OnFull
    from edge_llava.runtime.model import LlavaModel
    from edge_llava.runtime.options import SamplingOptions
    from edge_llava.runtime.session import Session

_HELP = """\
/image PATH   add an image to the next question
/clear        start a new conversation
/save [FILE]  write the conversation to a Markdown file
/help         show this list
Ctrl-C        stop the answer
/exit, Ctrl-D leave"""

_WAY_OUT: dict[OnFull, str] = {
    "error": "/clear starts a new conversation here; chat --on-full drop-oldest drops the oldest questions instead.",
    "drop-oldest": "It does not fit even without the earlier questions. /clear starts a new conversation here.",
}
_LEAVE = ("/exit", "/quit", "/bye")


@dataclass
class _Conversation:
    model: LlavaModel
    session: Session
    pending: list[tuple[str, ImageInput]]
    alpha: Alpha
    tuned: bool
    transcript: list[str] = field(default_factory=list)


def run_repl(
    model: LlavaModel,
    options: SamplingOptions,
    images: list[tuple[str, ImageInput]],
    on_full: OnFull,
    alpha: Alpha,
    *,
    tuned: bool = True,
) -> None:
    """Asks on the terminal until Ctrl-D.

    Args:
        model: An open model.
        options: How answers are sampled.
        images: Images of the first question, with the names that the user typed.
        on_full: What happens when the context is full.
        alpha: How transparency is treated in images that are added.
        tuned: Whether times may be estimated from what `edge-llava tune` measured.
    """
    _enable_line_editing()
    conversation = _Conversation(model, model.session(options, on_full=on_full), images, alpha, tuned)
    note(f"{model.bundle.name}. Type a question, /help for commands, Ctrl-D to leave.")
    with contextlib.suppress(EdgeLlavaError):  # the question will say it
        _prepare(conversation)
    while (line := _read_line(conversation)) is not None and line not in _LEAVE:
        try:
            _handle(conversation, line)
        except ContextOverflow as error:
            note(f"edge-llava: {error}")
            note(_WAY_OUT[on_full])
        except EdgeLlavaError as error:
            note(f"edge-llava: {error}")


def _handle(conversation: _Conversation, line: str) -> None:
    if not line:
        return
    if not line.startswith("/"):
        _ask(conversation, line)
        return
    name, _, argument = line.partition(" ")
    command = _COMMANDS.get(name)
    if command is None:
        note(f"there is no command {name}; /help lists them")
        return
    command(conversation, argument.strip())


def _ask(conversation: _Conversation, question: str) -> None:
    n_before = conversation.session.n_dropped
    images = [image for _, image in conversation.pending]
    model = conversation.model
    pace = measured_pace(model.manifest, tuned=conversation.tuned)
    answer = read_answer(conversation.session, question, images, model.tower, stream=True, pace=pace)
    if n_dropped := conversation.session.n_dropped - n_before:
        questions = "question" if n_dropped == 1 else f"{n_dropped} questions"
        note(f"The context was full: the model no longer sees the oldest {questions}, with the answers.")
    if answer.finish_reason == "cancelled" and not answer.tokens:
        return  # stopped before the first token: the question does not count, and its images go with the next one
    links = "".join(f"![]({name})\n\n" for name, _ in conversation.pending)
    conversation.transcript.append(f"{links}**User:** {question}\n\n**Assistant:** {answer.text}\n")
    conversation.pending.clear()


def _prepare(conversation: _Conversation) -> None:
    """While the question is typed, its images are encoded and read."""
    conversation.session.prepare([image for _, image in conversation.pending])


def _add_image(conversation: _Conversation, argument: str) -> None:
    path = os.path.expanduser(argument.strip("'\""))
    if not argument:
        note("which image? /image PATH")
        return
    image = open_image(path, conversation.alpha)
    note_truncated([(path, image)])
    conversation.pending.append((path, image))
    model, n_images = conversation.model, len(conversation.session.images) + len(conversation.pending)
    note_tiles([(path, image)], model.manifest, model.tower.forms.choose(n_images), tuned=conversation.tuned)
    note(f"{len(conversation.pending)} image(s) will go with the next question")
    _prepare(conversation)


def _clear(conversation: _Conversation, argument: str) -> None:
    conversation.session.clear()
    conversation.pending.clear()
    conversation.transcript.clear()
    note("a new conversation; add an image with /image")


def _save(conversation: _Conversation, argument: str) -> None:
    path = Path(os.path.expanduser(argument or time.strftime("edge-llava-%Y%m%d-%H%M%S.md")))
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write("\n".join(conversation.transcript))
    except FileExistsError:
        note(f"{path} exists already; name another file")
    except OSError as error:
        note(f"{path} cannot be written: {error.strerror}")
    else:
        note(f"saved to {path}")


def _help(conversation: _Conversation, argument: str) -> None:
    note(_HELP)


_COMMANDS: dict[str, Callable[[_Conversation, str], None]] = {
    "/image": _add_image,
    "/clear": _clear,
    "/save": _save,
    "/help": _help,
}


def _read_line(conversation: _Conversation) -> str | None:
    """The next line, stripped; None at the end. Ctrl-C at the prompt drops the line."""
    prompt = f"[{len(conversation.pending)} image] > " if conversation.pending else "> "
    try:
        if sys.stdout.isatty():
            return input(prompt).strip()
        click.echo(prompt, nl=False, err=True)
        return input().strip()
    except EOFError:
        note("")
        return None
    except KeyboardInterrupt:
        note("")
        return ""


def _enable_line_editing() -> None:
    try:
        import readline  # noqa: F401 (importing it adds history and editing to input())
    except ImportError:
        return  # Windows has its own
