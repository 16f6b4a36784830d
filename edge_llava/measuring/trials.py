"""Searches for settings by measuring: one coordinate at a time, with interleaved repeats, until time runs out."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from edge_llava.device.profile import DeviceSettings

_HOPELESS = 1.3  # times the best: a setting whose fastest run is slower is not measured again
_DISTURBED = 3.0  # times the best: a single run below this may have been disturbed, and is repeated
_RECENT = 3  # number of latest settings that predict the next duration; the very first run may be slow
_DOWNHILL = 1.1  # times the best: a chain that is this much worse will only get worse

Figures = TypeVar("Figures")


@dataclass(frozen=True)
class Coordinate:
    """One setting and the values to try.

    Attributes:
        name: Field of DeviceSettings.
        values: The values, in the order in which they are tried.
        is_chain: Whether the cost falls and then rises along the values, so that a much worse value ends the search.
    """

    name: str
    values: tuple[Any, ...]
    is_chain: bool = False


@dataclass(frozen=True)
class Trial(Generic[Figures]):
    """Settings and the measurements of every run with them."""

    settings: DeviceSettings
    samples: tuple[Figures, ...]

    def median(self, figure: Callable[[Figures], float]) -> float:
        """The median of one figure over the runs."""
        return statistics.median(map(figure, self.samples))


Cost = Callable[[Trial[Figures]], float]
"""The quantity to minimize."""


class Trials(Generic[Figures]):
    """All measurements so far, and the deadline."""

    def __init__(
        self,
        measure: Callable[[DeviceSettings], Figures],
        deadline: float,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """
        Args:
            measure: Measures one run with given settings.
            deadline: Reading of `clock` by which all runs should have ended; none starts after it.
            clock: Returns the time in seconds.
        """
        self._measure, self._deadline, self._clock = measure, deadline, clock
        self._samples: dict[DeviceSettings, list[Figures]] = {}
        self._durations: dict[DeviceSettings, float] = {}

    def run(self, settings: DeviceSettings) -> bool:
        """Measures once, unless the run would probably not end in time. Returns whether it was measured.

        The very first run always takes place: without it there would be nothing to choose from.
        """
        started = self._clock()
        expected = self._durations.get(settings, max(list(self._durations.values())[-_RECENT:], default=0.0))
        if self._samples and started + expected > self._deadline:
            return False
        figures = self._measure(settings)
        self._samples.setdefault(settings, []).append(figures)
        self._durations[settings] = self._clock() - started
        return True

    def of(self, settings: DeviceSettings) -> Trial[Figures] | None:
        """The trial of these settings; None if they were not measured."""
        samples = self._samples.get(settings)
        return None if samples is None else Trial(settings, tuple(samples))

    def all(self) -> list[Trial[Figures]]:
        """All trials, in the order of their first runs."""
        return [Trial(settings, tuple(samples)) for settings, samples in self._samples.items()]

    def best(self, cost: Cost[Figures]) -> Trial[Figures]:
        """The trial with the lowest cost; the first one among equals."""
        return min(self.all(), key=cost)


def descend(
    trials: Trials[Figures],
    start: DeviceSettings,
    coordinates: Sequence[Coordinate],
    cost: Cost[Figures],
    n_rounds: int = 3,
) -> Trial[Figures]:
    """Optimizes one coordinate after another, each time starting from the best settings so far.

    Runs of a coordinate's values are interleaved, so that a temporary disturbance affects all of them.

    Returns:
        The trial with the lowest cost.
    """
    here = start
    trials.run(start)
    for coordinate in coordinates:
        values = dict.fromkeys((getattr(here, coordinate.name), *coordinate.values))
        candidates = [replace(here, **{coordinate.name: value}) for value in values]
        if len(candidates) == 1:
            continue
        measured = _explore(trials, candidates, cost, coordinate.is_chain)
        for _ in range(1, n_rounds if len(measured) > 1 else 1):
            least = min(map(cost, measured))
            for trial in [trial for trial in measured if _may_be_best(trial, cost, least)]:
                trials.run(trial.settings)
            measured = _known(trials, candidates)
        here = min(measured, key=cost).settings
    return trials.best(cost)


def _may_be_best(trial: Trial[Figures], cost: Cost[Figures], least: float) -> bool:
    quickest = min(cost(Trial(trial.settings, (sample,))) for sample in trial.samples)
    return quickest <= (_DISTURBED if len(trial.samples) == 1 else _HOPELESS) * least


def _explore(
    trials: Trials[Figures], candidates: list[DeviceSettings], cost: Cost[Figures], is_chain: bool
) -> list[Trial[Figures]]:
    """Runs each candidate once, unless it was measured before."""
    for candidate in candidates:
        if trials.of(candidate) is None and not trials.run(candidate):
            break
        costs = [cost(trial) for trial in _known(trials, candidates)]
        if is_chain and costs[-1] > _DOWNHILL * min(costs):
            break
    return _known(trials, candidates)


def _known(trials: Trials[Figures], candidates: list[DeviceSettings]) -> list[Trial[Figures]]:
    return [trial for candidate in candidates if (trial := trials.of(candidate)) is not None]
