"""One dim line on a terminal that says what is computed before an answer begins, until its first word erases it."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

import click

from edge_llava.cli.display import format_wait
from edge_llava.cli.pace import Pace
from edge_llava.home.progress import ProgressEvent

if TYPE_CHECKING:
    from edge_llava.runtime.answer import AnswerProgress

_FIRST_S = 0.3  # an answer that begins sooner needs no line
_EVERY_S = 0.2
_MIN_SHOWN_S = 0.5


@dataclass(frozen=True)
class Moment:
    """What is known while an answer is waited for.

    Attributes:
        progress: Of the answer; None before the engine has it.
        stage_s: Seconds that its stage has lasted.
        read_s: Seconds since the last positions were read.
        n_tiles: Squares of all images of the question.
        tiles: Of the image that is being encoded: how many are done, and how many it has; None where that is one.
    """

    progress: AnswerProgress | None
    stage_s: float
    read_s: float
    n_tiles: int
    tiles: tuple[int, int] | None


def describe_moment(moment: Moment, pace: Pace) -> str:
    """The stage, how far it is, and how long it will last, or has lasted where that is unknown."""
    progress = moment.progress
    if progress is None or progress.stage == "waiting":
        return "starting ..."
    if progress.stage == "writing":
        return f"writing, {progress.n_tokens:,} tokens ..."
    if progress.stage == "encoding":
        images = "the image" if progress.n_images == 1 else f"{progress.n_images} images"
        done = "" if moment.tiles is None else f", {moment.tiles[0]} of {moment.tiles[1]} tiles"
        return f"encoding {images}{done}{_time(_encoding_left_s(moment, pace), moment.stage_s)}"
    left_s = None
    position_s = progress.position_s or pace.position_s
    if position_s is not None:
        left_s = (progress.n_prompt - progress.n_read) * position_s - moment.read_s
    read = f"{progress.n_read:,} of {progress.n_prompt:,} positions"
    return f"reading {read}{_time(left_s, moment.stage_s)}"


def _encoding_left_s(moment: Moment, pace: Pace) -> float | None:
    if moment.tiles is not None and moment.progress is not None and moment.progress.n_images == 1:
        n_done, n_all = moment.tiles
        if n_done:
            return moment.stage_s / n_done * (n_all - n_done)
    return None if pace.tile_s is None else pace.tile_s * moment.n_tiles - moment.stage_s


def _time(left_s: float | None, lasted_s: float) -> str:
    if left_s is not None and left_s >= _MIN_SHOWN_S:
        return f", about {format_wait(left_s)}"
    return f", for {format_wait(lasted_s)}" if lasted_s >= 1 else " ..."


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or shutil.get_terminal_size().columns
    except OSError:
        return shutil.get_terminal_size().columns


class WaitingLine:
    """Draws on stderr while the block lasts or until `erase`, on a thread of its own; nothing if that is no terminal.

    The line ends where it began, so that a note that comes meanwhile takes its place.
    """

    def __init__(self, look: Callable[[], AnswerProgress | None], n_tiles: int, pace: Pace) -> None:
        """
        Args:
            look: Says how far the answer is; called on the line's thread.
            n_tiles: Squares of all images of the question.
            pace: For the time that is left.
        """
        self._look, self._n_tiles, self._pace = look, n_tiles, pace
        self._tiles: tuple[int, int] | None = None
        self._shown, self._is_over = "", threading.Event()
        self._drawing = threading.Thread(target=self._draw_on, name="edge-llava-waiting", daemon=True)

    def __enter__(self) -> WaitingLine:
        if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            self._drawing.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.erase()

    def note_tiles(self, event: ProgressEvent) -> None:
        """Takes how many squares of an image are done: as `Tower.progress`, from any thread."""
        self._tiles = (event.done, event.total) if event.total is not None and event.done < event.total else None

    def erase(self) -> None:
        """Ends the drawing; the terminal is then as before. Safe to call twice."""
        self._is_over.set()
        if self._drawing.is_alive():
            self._drawing.join()

    def _draw_on(self) -> None:
        began = read_at = time.monotonic()
        stage, n_read = "", 0
        wait_s = _FIRST_S
        while not self._is_over.wait(wait_s):
            now, progress, wait_s = time.monotonic(), self._look(), _EVERY_S
            if progress is not None and progress.stage != stage:
                stage, began, read_at = progress.stage, began if not stage else now, now
            if progress is not None and progress.n_read != n_read:
                n_read, read_at = progress.n_read, now
            moment = Moment(progress, now - began, now - read_at, self._n_tiles, self._tiles)
            self._draw(describe_moment(moment, self._pace))
        self._draw("")

    def _draw(self, text: str) -> None:
        width = _columns() - 1
        text = text if len(text) <= width else text.rpartition(",")[0][:width]  # without the time
        if text != self._shown:
            padded = text.ljust(len(self._shown))
            click.echo(f"\r{click.style(padded, dim=True) if text else padded}\r", nl=False, err=True)
        self._shown = text
