"""Statistics of requests: counts by path and status, and how long answers took."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence

from edge_llava.runtime.engine.answer import Answer

_BOUNDS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Histogram:
    """Counts values below each of several bounds, as Prometheus defines it."""

    def __init__(self, bounds: Sequence[float] = _BOUNDS_S) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        """Counts a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, name: str) -> Iterator[str]:
        """The histogram in Prometheus' text format."""
        total = 0
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            yield f'{name}_bucket{{le="{bound}"}} {total}'
        yield f"{name}_sum {self._sum:.6f}"
        yield f"{name}_count {total}"


class RequestCounts:
    """Counts requests. For the event loop's thread.

    Attributes:
        n_open: Requests that are being read or answered.
        by_status: (path, status) -> requests; status 0 if the client disconnected before there was one.
        first_text_s: Seconds from queueing a request to the first text of its answer.
        whole_s: Duration of chat requests that were answered.
    """

    def __init__(self) -> None:
        self.n_open = 0
        self.by_status: Counter[tuple[str, int]] = Counter()
        self.first_text_s, self.whole_s = Histogram(), Histogram()

    def note(self, route: str, status: int, seconds: float, answer: Answer | None) -> None:
        """Records a request that has ended."""
        self.by_status[route, status] += 1
        if answer is None:
            return
        self.whole_s.add(seconds)
        if answer.timings().ttft_s:
            self.first_text_s.add(answer.timings().ttft_s)
