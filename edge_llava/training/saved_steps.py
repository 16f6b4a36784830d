"""The saved steps of a run: directories `checkpoint-<step>`, of which only complete ones count."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from edge_llava.errors import TrainingError

_COMPLETE = "complete"  # written last into a saved step: without it the save was interrupted
_OPEN_LOSS = "open_loss.json"


def run_directory(out: Path) -> Path:
    """Returns where the run that makes a checkpoint keeps its saved steps: next to it."""
    return out.with_name(f"{out.name}.training")


def last_saved_step(directory: Path) -> Path | None:
    """Finds the newest completely saved step, and removes interrupted saves.

    Returns:
        Its directory `checkpoint-<step>`, or None.
    """
    for path in directory.glob("checkpoint-*"):
        if not (path / _COMPLETE).is_file():
            shutil.rmtree(path)
    return find_saved_step(directory)


def find_saved_step(directory: Path) -> Path | None:
    """As `last_saved_step`, but removes nothing: for a directory that another run may be saving to."""
    complete = [path.parent for path in directory.glob(f"checkpoint-*/{_COMPLETE}")]
    return max(complete, key=step_of, default=None)


def step_of(directory: Path) -> int:
    """Returns the step that a directory contains the state of."""
    return int(directory.name.rpartition("-")[2])


def complete_step(directory: Path, open_loss: float) -> None:
    """Marks a saved step as complete.

    Args:
        directory: Its directory; everything else is in it.
        open_loss: Sum of the losses since the last point of the loss curve, so that a resumed run draws the same curve.
    """
    (directory / _OPEN_LOSS).write_text(json.dumps(open_loss), encoding="utf-8")
    (directory / _COMPLETE).touch()


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
