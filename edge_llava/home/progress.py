"""How the library speaks while it works: events to a callback, never text on a stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ProgressEvent:
    """One step of a long job.

    Attributes:
        stage: What is being done, in words for people: "language model, Q4_K_M".
        done: Units finished so far; equal to `total` exactly once, at the end of the stage.
        total: Units of the whole stage, or None where it is not known.
        unit: "B" for bytes, "steps" for the steps of a training run, "items" for anything else that is counted.
        detail: What else can be said of it so far, in a few words for people.
    """

    stage: str
    done: int
    total: int | None
    unit: Literal["B", "items", "steps"] = "B"
    detail: str = ""


ProgressCallback = Callable[[ProgressEvent], None]


def silent(event: ProgressEvent) -> None:
    """The default progress callback: says nothing."""
