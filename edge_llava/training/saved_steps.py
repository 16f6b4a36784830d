"""The saved steps of a run: directories `checkpoint-<step>`, of which only complete ones count.

The marker of a complete one is written after everything else is on the disk, and lists the files with their sizes.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from edge_llava.errors import TrainingError
from edge_llava.home.files import sync_to_disk

_COMPLETE = "complete"  # written last into a saved step: without it the save was interrupted
_OPEN_LOSS = "open_loss.json"


def run_directory(out: Path) -> Path:
    """Returns where the run that makes a checkpoint keeps its saved steps: next to it."""
    return out.with_name(f"{out.name}.training")


def last_saved_step(directory: Path) -> Path | None:
    """Finds the newest completely saved step, and removes interrupted saves and what has lost files since.

    Returns:
        Its directory `checkpoint-<step>`, or None.
    """
    for path in directory.glob("checkpoint-*"):
        if not _is_complete(path):
            shutil.rmtree(path)
    return find_saved_step(directory)


def find_saved_step(directory: Path) -> Path | None:
    """As `last_saved_step`, but removes nothing: for a directory that another run may be saving to."""
    return max(filter(_is_complete, directory.glob("checkpoint-*")), key=step_of, default=None)


def _is_complete(directory: Path) -> bool:
    try:
        marker = (directory / _COMPLETE).read_text(encoding="utf-8")
        sizes = json.loads(marker) if marker else {}  # empty: from a version that listed no files
        return all((directory / name).stat().st_size == size for name, size in sizes.items())
    except (FileNotFoundError, ValueError):
        return False


def step_of(directory: Path) -> int:
    """Returns the step that a directory contains the state of."""
    return int(directory.name.rpartition("-")[2])


def complete_step(directory: Path, open_loss: float) -> None:
    """Marks a saved step as complete, once it and the run's other files are on the disk.

    Args:
        directory: Its directory; everything else is in it.
        open_loss: Sum of the losses since the last point of the loss curve, so that a resumed run draws the same curve.

    Raises:
        OSError: If something cannot be written.
    """
    (directory / _OPEN_LOSS).write_text(json.dumps(open_loss), encoding="utf-8")
    inside, run = list(directory.rglob("*")), directory.parent
    sizes = {path.relative_to(directory).as_posix(): path.stat().st_size for path in inside if path.is_file()}
    beside = [path for path in run.iterdir() if path.is_file()]  # the settings, the loss curve and kept features
    sync_to_disk([*inside, directory, *beside, run, run.parent])
    (directory / _COMPLETE).write_text(json.dumps(sizes), encoding="utf-8")
    sync_to_disk([directory / _COMPLETE, directory])


def read_open_loss(directory: Path) -> float:
    """Reads the `open_loss` of a saved step; 0 for steps that were saved before it was kept."""
    path = directory / _OPEN_LOSS
    return float(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else 0.0


def cannot_write(what: str, directory: Path, error: Exception) -> TrainingError:
    """Returns the error of a run that could not write something, which says what is kept."""
    last = last_saved_step(directory)
    kept = f"{last} is intact" if last else "nothing was saved before"
    return TrainingError(
        f"{what} cannot be written: {error}. {kept}. Free space and run the same command again: it resumes from there."
    )
