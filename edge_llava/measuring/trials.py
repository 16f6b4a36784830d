"""Searching settings by measuring: one coordinate at a time, repeats interleaved, until the time is used up."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from edge_llava.device.profile import DeviceSettings

_HOPELESS = 1.3  # times the best, even at its quickest: not measured again
_DISTURBED = 3.0  # times the best: below it a single run may have been disturbed, and gets another chance
_RECENT = 3  # settings whose runs tell how long the next one takes; the first of all may have been slow to start
_DOWNHILL = 1.1  # times the best: a chain that became this much worse goes on to get worse

Figures = TypeVar("Figures")


@dataclass(frozen=True)
class Coordinate:
    """One setting and the values to try.

    Attributes:
        name: Field of DeviceSettings.
        values: In the order in which they are tried.
        is_chain: Whether values get better or worse one after another, so that a much worse one ends it.
    """

    name: str
    values: tuple[Any, ...]
    is_chain: bool = False


@dataclass(frozen=True)
class Trial(Generic[Figures]):
    """Settings, and what every run with them measured."""

    settings: DeviceSettings
    samples: tuple[Figures, ...]

    def median(self, figure: Callable[[Figures], float]) -> float:
        """Median of one figure over the runs."""
        return statistics.median(map(figure, self.samples))


Cost = Callable[[Trial[Figures]], float]
"""What is to be small."""


class Trials(Generic[Figures]):
    """Everything that was measured, and the time that is left."""

    def __init__(
        self,
        measure: Callable[[DeviceSettings], Figures],
        deadline: float,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """
        Args:
            measure: One run with these settings.
            deadline: Reading of `clock` after which nothing is begun, and before which everything should end.
            clock: Seconds.
        """
        self._measure, self._deadline, self._clock = measure, deadline, clock
        self._samples: dict[DeviceSettings, list[Figures]] = {}
        self._durations: dict[DeviceSettings, float] = {}

    def run(self, settings: DeviceSettings) -> bool:
        """Measures once, unless it would probably not end in time; whether it was measured.

        The first run of all is always done: without it there is nothing to choose from.
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
        """What was measured with these settings."""
        samples = self._samples.get(settings)
        return None if samples is None else Trial(settings, tuple(samples))

    def all(self) -> list[Trial[Figures]]:
        """In the order of their first run."""
        return [Trial(settings, tuple(samples)) for settings, samples in self._samples.items()]

    def best(self, cost: Cost[Figures]) -> Trial[Figures]:
        """The trial of least cost; of equals the first."""
        return min(self.all(), key=cost)


def descend(
    trials: Trials[Figures],
    start: DeviceSettings,
    coordinates: Sequence[Coordinate],
    cost: Cost[Figures],
    n_rounds: int = 3,
) -> Trial[Figures]:
    """Goes along one coordinate after another, each time from the best so far.

    The values of a coordinate take turns: what disturbs the device for a while disturbs all of them.

    Returns:
        The trial of least cost among all.
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
    """The first run of each candidate; what was measured before need not be again."""
    for candidate in candidates:
        if trials.of(candidate) is None and not trials.run(candidate):
            break
        costs = [cost(trial) for trial in _known(trials, candidates)]
        if is_chain and costs[-1] > _DOWNHILL * min(costs):
            break
    return _known(trials, candidates)


def _known(trials: Trials[Figures], candidates: list[DeviceSettings]) -> list[Trial[Figures]]:
    return [trial for candidate in candidates if (trial := trials.of(candidate)) is not None]
