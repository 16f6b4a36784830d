"""What people see on stderr: progress bars on a terminal, one line per stage elsewhere, and notes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from edge_llava.progress import ProgressCallback, ProgressEvent

INTERRUPTED = 130  # exit code after Ctrl-C


def note(text: str) -> None:
    """A line for people, on stderr."""
    click.echo(text, err=True)


def format_bytes(n_bytes: int) -> str:
    """1,234,567 -> "1.2 MB"; decimal units, as disks are sold."""
    size, unit = float(n_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


@contextmanager
def show_progress() -> Iterator[ProgressCallback]:
    """A progress callback that draws until the block ends."""
    if sys.stderr.isatty():
        with _bars() as callback:
            yield callback
    else:
        yield _StageLines()


class _StageLines:
    """One line when a stage is complete; for logs."""

    def __call__(self, event: ProgressEvent) -> None:
        if event.total is not None and event.done == event.total:
            amount = f": {format_bytes(event.total)}" if event.unit == "B" else ""
            note(f"{event.stage}{amount}")


@contextmanager
def _bars() -> Iterator[ProgressCallback]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[amount]}"),
        TextColumn("{task.fields[time]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=Console(stderr=True), transient=False) as progress:
        tasks = {}

        def draw(event: ProgressEvent) -> None:
            if event.stage not in tasks:
                tasks[event.stage] = progress.add_task(event.stage, amount="", time="left", total=event.total)
            done = f"{format_bytes(event.done)} of {format_bytes(event.total or 0)}" if event.unit == "B" else ""
            time = "took" if event.done == event.total else "left"
            progress.update(tasks[event.stage], completed=event.done, total=event.total, amount=done, time=time)

        yield draw
