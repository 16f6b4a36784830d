"""What each stage of a conversion took: time and memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_llava.device.memory import peak_rss_bytes
from edge_llava.home.progress import ProgressCallback, ProgressEvent

_CLEAR = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class StageFigures:
    """What a stage took.

    Attributes:
        stage: Its name.
        seconds: Between the events before and its own, together.
        peak_rss_bytes: Largest resident size during it; where the system cannot tell (not Linux), until its end.
    """

    stage: str
    seconds: float
    peak_rss_bytes: int


class StageLog:
    """A progress callback that passes events on, and notes what each stage took.

    What happened since the last event belongs to the stage of the next one, which was being prepared. On Linux every
    event resets this process's own high-water mark of memory.
    """

    def __init__(self, progress: ProgressCallback, clock: Callable[[], float] = time.perf_counter) -> None:
        """Starts the clock; `progress` receives the events."""
        self._progress, self._clock = progress, clock
        self._since = clock()
        self._figures: dict[str, StageFigures] = {}

    def __call__(self, event: ProgressEvent) -> None:
        """Notes an event and passes it on."""
        now, peak = self._clock(), peak_rss_bytes()
        _reset_peak()
        before = self._figures.get(event.stage, StageFigures(event.stage, 0, 0))
        seconds = before.seconds + now - self._since
        self._figures[event.stage] = StageFigures(event.stage, seconds, max(peak, before.peak_rss_bytes))
        self._since = now
        self._progress(event)

    def figures(self) -> list[StageFigures]:
        """The stages so far, in the order in which they began."""
        return list(self._figures.values())


def _reset_peak() -> None:
    try:
        _CLEAR.write_text("5", encoding="ascii")
    except OSError:  # not Linux, or not allowed
        return
