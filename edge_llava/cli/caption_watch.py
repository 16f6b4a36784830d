"""What `edge-llava caption --watch` shows: a line for every round in which something happened."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edge_llava.cli.display import note
from edge_llava.cli.printable import printable_line

if TYPE_CHECKING:
    from edge_llava.captioning.job import CaptionJob
    from edge_llava.home.progress import ProgressEvent
    from edge_llava.runtime.model import LlavaModel

_MAX_SHOWN = 3
_LINE_EVERY_S = 10.0


def watch_folders(job: CaptionJob, model: LlavaModel, sources: Sequence[Path], interval_s: float) -> None:
    """Captions what appears in the folders until Ctrl-C, which is how this ends."""
    from edge_llava.captioning.watch import Watch

    places = ", ".join(map(str, sources))
    try:
        note(f"Watching {printable_line(places)} for images. Press Ctrl-C to stop.")
        for happened in Watch(job, interval_s).rounds(model, progress=_Lines()):
            if happened.captioned:
                n_more = len(happened.captioned) - _MAX_SHOWN
                names = ", ".join(happened.captioned[:_MAX_SHOWN]) + f" and {n_more:,} more" * (n_more > 0)
                note(f"captioned: {printable_line(names)}")
            for fault in happened.faults:
                note(f"not captioned: {printable_line(f'{fault.path}: {fault.reason}')}")
    except KeyboardInterrupt:
        note("stopped")


class _Lines:
    """Progress of a round that takes long: a line now and then."""

    def __init__(self) -> None:
        self._printed_at = time.monotonic()

    def __call__(self, event: ProgressEvent) -> None:
        now = time.monotonic()
        if event.done == 0:
            self._printed_at = now
        elif event.done != event.total and now - self._printed_at >= _LINE_EVERY_S:
            self._printed_at = now
            note(f"{event.stage}: {event.done:,} of {event.total or 0:,}")
