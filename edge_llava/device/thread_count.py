"""How many threads compute: fewer while other programs keep CPUs busy.

llama.cpp's threads wait for each other many hundred times in a step. If one of them has to share its CPU with another
program, all the others wait for it: on two cores of which one is busy, two threads are about half as fast as one, and
with a small model a hundredth. See `benchmarks/busy_cores.py`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from edge_llava.device.cpu_times import CpuTimes, n_free, read_cpu_times

_WINDOW_S = 0.2  # the system counts in steps of 0.01 s
_SPARE = 0.4  # of a CPU: with so much less than a whole one, another thread is still worth it
_N_BEFORE_MORE = 2  # windows in a row: a program that pauses is soon back


class ThreadCount:
    """The number for the next step. For one thread.

    Attributes:
        n: Threads.
    """

    def __init__(
        self,
        n_most: int,
        *,
        adapts: bool = True,
        before: CpuTimes | None = None,
        read: Callable[[], CpuTimes | None] = read_cpu_times,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            n_most: As many as compute on an idle machine.
            adapts: Whether there may be fewer.
            before: The system's counters some moments ago; None: nothing is known before the first steps.
            read: Reads the system's counters.
            clock: Seconds, as of `CpuTimes.at_s`.
        """
        self.n = self._n_most = n_most
        self._read, self._clock = read, clock
        self._before = (before or read()) if adapts and n_most > 1 else None
        self._n_calm = 0  # windows in a row that had room for more
        self._paused_at_s: float | None = None
        self.update()

    def pause(self) -> None:
        """Nothing is computed until `update` is called again. What others do meanwhile is past by then."""
        self.update()
        self._paused_at_s = self._clock()

    def update(self) -> bool:
        """Looks at what other programs took since it was last called, if that is not too short.

        After a pause, a new window begins, which decides by itself.

        Returns:
            Whether `n` has changed.
        """
        paused_at_s, self._paused_at_s = self._paused_at_s, None
        if self._before is None or self._clock() - self._before.at_s < _WINDOW_S or (now := self._read()) is None:
            return False
        if paused_at_s is not None and self._clock() - paused_at_s >= _WINDOW_S:
            self._before, self._n_calm = now, _N_BEFORE_MORE - 1
            return False
        wanted = math.floor(n_free(now.others_since(self._before)) + _SPARE)
        wanted, before, self._before = max(1, min(self._n_most, wanted)), self.n, now
        self._n_calm = self._n_calm + 1 if wanted > before else 0
        if wanted < before or self._n_calm >= _N_BEFORE_MORE:
            self.n, self._n_calm = wanted, 0
        return self.n != before
