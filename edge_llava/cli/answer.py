"""Reads one answer: text to stdout as it is generated, timings to stderr; Ctrl-C stops the answer, not the program."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

import click

from edge_llava.cli.printable import printable
from edge_llava.cli.tiles import show_tiles

if TYPE_CHECKING:
    from edge_llava.runtime.answer import Timings
    from edge_llava.runtime.dialogue.messages import ImageInput
    from edge_llava.runtime.session import Session
    from edge_llava.runtime.vision.tower import Tower


_MIN_RATED_TOKENS = 16  # a rate over fewer is meaningless


@dataclass(frozen=True)
class FinishedAnswer:
    """A finished answer: its text without surrounding white space, its token ids, and why it ended."""

    text: str
    tokens: list[int]
    finish_reason: str


def read_answer(
    session: Session, question: str, images: Sequence[ImageInput], tower: Tower, *, stream: bool
) -> FinishedAnswer:
    """Asks a question and reads the answer to its end.

    Args:
        session: The conversation.
        question: The user's text.
        images: The images of this question.
        tower: Encodes them; its progress is drawn on stderr.
        stream: Write the text to stdout as it is generated, and the timings to stderr if it is a terminal.
    """
    parts, tokens, finish_reason = [], [], ""
    with _stopping(session), ExitStack() as waiting:
        waiting.enter_context(show_tiles(tower, images, len(session.images) + len(images)))
        for token in session.ask(question, image=list(images)):
            waiting.close()  # what is drawn must not run into the answer
            parts.append(token.text)
            if token.id is not None:
                tokens.append(token.id)
            finish_reason = token.finish_reason or finish_reason
            if stream and token.text:
                # a pipe gets the answer unchanged
                click.echo(printable(token.text) if sys.stdout.isatty() else token.text, nl=False)
                sys.stdout.flush()
    if stream:
        click.echo()
        if session.timings is not None and sys.stderr.isatty():
            click.secho(describe_timings(session.timings, finish_reason), err=True, dim=True)
    return FinishedAnswer("".join(parts).strip(), tokens, finish_reason)


def describe_timings(timings: Timings, finish_reason: str) -> str:
    """Describes in one line what was computed, what was reused, and how long it took."""
    parts = []
    if timings.vision_s:
        parts.append(f"image {timings.vision_s + timings.projector_s:.2f} s")
    parts.append(f"prompt {timings.prefill_tokens} tokens in {timings.prefill_s:.2f} s")
    if timings.cached_tokens:
        parts.append(f"{timings.cached_tokens} reused")
    parts.append(f"first word {timings.ttft_s:.2f} s")
    if timings.decode_s and timings.decode_tokens >= _MIN_RATED_TOKENS:
        parts.append(f"{(timings.decode_tokens - 1) / timings.decode_s:.1f} tokens/s")
    if finish_reason != "stop":
        parts.append({"length": "cut at the limit", "cancelled": "stopped"}.get(finish_reason, finish_reason))
    return f"[{', '.join(parts)}]"


@contextmanager
def _stopping(session: Session) -> Iterator[None]:
    """Inside the block, the first Ctrl-C cancels the answer and a second one interrupts the program."""

    def cancel(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        session.cancel()

    previous = signal.signal(signal.SIGINT, cancel)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
