"""Output for people on stderr: progress bars on a terminal, one line per stage elsewhere, and notes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from edge_llava.cli.printable import printable
from edge_llava.home.progress import ProgressCallback, ProgressEvent

if TYPE_CHECKING:
    from edge_llava.runtime.vision.image import Image

INTERRUPTED = 130  # exit code after Ctrl-C
_LINE_EVERY_S = 10.0
_MINUTES_FROM_S = 90
_SPEED_OVER_S = 300.0  # an image may take a minute


def note(text: str) -> None:
    """Prints a line for people on stderr."""
    click.echo(printable(text), err=True)


def show(text: str) -> None:
    """Prints a line for people on stdout. Output for programs does not go through here."""
    click.echo(printable(text))


def show_result(text: object) -> None:
    """Prints a command's result on stdout; on a terminal, its control characters are made visible."""
    click.echo(printable(str(text)) if sys.stdout.isatty() else str(text))


def note_truncated(images: Iterable[tuple[str, Image]]) -> None:
    """Prints a line for every image whose file ends early; images come with their names."""
    for name, image in images:
        if image.truncated:
            note(f"edge-llava: {name} is truncated: its file ends early, and part of the image is missing.")


def format_bytes(n_bytes: int) -> str:
    """Formats 1,234,567 as "1.2 MB", in decimal units."""
    size, unit = float(n_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def format_speed(per_second: float) -> str:
    """Formats a rate per second, or per minute or hour if it would be below one."""
    for amount, unit in ((per_second, "s"), (per_second * 60, "min")):
        if amount >= 1:
            return f"{amount:.1f}/{unit}"
    return f"{per_second * 3600:.1f}/h"


def format_wait(seconds: float) -> str:
    """Formats a time that is expected: "12 s", "3 minutes"."""
    return f"{max(1, round(seconds))} s" if seconds < _MINUTES_FROM_S else f"{round(seconds / 60)} minutes"


@contextmanager
def show_progress() -> Iterator[ProgressCallback]:
    """Yields a progress callback that draws until the block ends."""
    if sys.stderr.isatty():
        with _bars() as callback:
            yield callback
    else:
        yield _StageLines()


class _StageLines:
    """Progress for logs: a line when a stage is complete, and now and then while items are counted."""

    def __init__(self) -> None:
        self._printed: dict[str, tuple[float, int]] = {}  # time and count of the last line, by stage

    def __call__(self, event: ProgressEvent) -> None:
        if event.total is not None and event.done == event.total:
            amount = f": {format_bytes(event.total)}" if event.unit == "B" else ""
            note(f"{event.stage}{amount}{_detail(event)}")
        elif event.total is not None and event.unit != "B":
            now = time.monotonic()
            then, n_then = self._printed.setdefault(event.stage, (now, event.done))
            if now - then >= _LINE_EVERY_S and event.done > n_then:
                self._printed[event.stage] = (now, event.done)
                speed = (event.done - n_then) / (now - then)
                left = timedelta(seconds=round((event.total - event.done) / speed))
                amount = f"{event.done:,} of {event.total:,}, {_speed(event, speed)}, {left} left"
                note(f"{event.stage}: {amount}{_detail(event)}")


@contextmanager
def _bars() -> Iterator[ProgressCallback]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[amount]}"),
        TextColumn("{task.fields[time]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    # started by the first event, so that what is opened before can show progress of its own
    progress = Progress(*columns, console=Console(stderr=True), transient=False, speed_estimate_period=_SPEED_OVER_S)
    tasks = {}

    def draw(event: ProgressEvent) -> None:
        if event.stage not in tasks:
            progress.start()
            stage = printable(event.stage)
            tasks[event.stage] = progress.add_task(stage, amount="", time="left", total=event.total)
        task = tasks[event.stage]
        time = "took" if event.done == event.total else "left"
        progress.update(task, completed=event.done, total=event.total, time=time)
        shown = progress.tasks[progress.task_ids.index(task)]
        progress.update(task, amount=_amount(event, shown.finished_speed or shown.speed))

    try:
        yield draw
    finally:
        progress.stop()


def _amount(event: ProgressEvent, speed: float | None) -> str:
    if event.unit == "B":
        return f"{format_bytes(event.done)} of {format_bytes(event.total or 0)}"
    speed_text = f", {_speed(event, speed)}" if speed else ""
    return f"{event.done:,} of {event.total or 0:,}{speed_text}{_detail(event)}"


def _speed(event: ProgressEvent, per_second: float) -> str:
    if event.unit == "steps":
        return f"{per_second:.1f} steps/s" if per_second >= 1 else f"{1 / per_second:.1f} s/step"
    return format_speed(per_second)


def _detail(event: ProgressEvent) -> str:
    return f", {event.detail}" if event.detail else ""
