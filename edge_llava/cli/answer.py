"""Reads one answer: text to stdout as it is generated, timings to stderr; Ctrl-C stops the answer, not the program."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FrameType
from typing import TYPE_CHECKING

import click

from edge_llava.cli.conversation.wrapping import AnswerWriter
from edge_llava.cli.pace import Pace
from edge_llava.cli.tiles import count_all_tiles
from edge_llava.cli.waiting import WaitingLine

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
    session: Session,
    question: str,
    images: Sequence[ImageInput],
    tower: Tower,
    *,
    stream: bool,
    pace: Pace | None = None,
) -> FinishedAnswer:
    """Asks a question and reads the answer to its end.

    Args:
        session: The conversation.
        question: The user's text.
        images: The images of this question.
        tower: Encodes them.
        stream: Write the text to stdout as it is generated, and the timings to stderr if it is a terminal.
        pace: How fast this device is, if that is known: for what a terminal shows until the first word is there.
    """
    parts, tokens, finish_reason = [], [], ""
    is_seen, writer = stream and sys.stdout.isatty(), AnswerWriter()
    n_tiles = count_all_tiles(tower, images, len(session.images) + len(images))
    waiting = WaitingLine(lambda: session.progress, n_tiles, _latest_pace(session, pace or Pace()))
    with _stopping(session), waiting, _showing_tiles(tower, waiting):
        for token in session.ask(question, image=list(images)):
            if is_seen and token.text:
                waiting.erase()  # it must not run into the answer
            parts.append(token.text)
            if token.id is not None:
                tokens.append(token.id)
            finish_reason = token.finish_reason or finish_reason
            if stream and token.text:
                writer.write(token.text)
    if stream:
        writer.end()
        if session.timings is not None and sys.stderr.isatty():
            click.secho(describe_timings(session.timings, finish_reason), err=True, dim=True)
    return FinishedAnswer("".join(parts).strip(), tokens, finish_reason)


def describe_timings(timings: Timings, finish_reason: str) -> str:
    """Describes in one line what was computed, what was reused, and how long it took."""
    parts = []
    if timings.vision_s:
        parts.append(f"image {timings.vision_s + timings.projector_s:.2f} s")
    if timings.prefill_tokens:
        parts.append(f"prompt {timings.prefill_tokens} tokens in {timings.prefill_s:.2f} s")
    if timings.cached_tokens:
        parts.append(f"{timings.cached_tokens} reused")
    if timings.ttft_s:
        parts.append(f"first word {timings.ttft_s:.2f} s")
    if timings.decode_s and timings.decode_tokens >= _MIN_RATED_TOKENS:
        parts.append(f"{(timings.decode_tokens - 1) / timings.decode_s:.1f} tokens/s")
    if finish_reason != "stop":
        parts.append({"length": "cut at the limit", "cancelled": "stopped"}.get(finish_reason, finish_reason))
    return f"[{', '.join(parts)}]"


def _latest_pace(session: Session, pace: Pace) -> Pace:
    position_s = session.timings.position_s if session.timings is not None else None
    return replace(pace, position_s=position_s) if position_s is not None else pace


@contextmanager
def _showing_tiles(tower: Tower, waiting: WaitingLine) -> Iterator[None]:
    before, tower.progress = tower.progress, waiting.note_tiles
    try:
        yield
    finally:
        tower.progress = before


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
