from __future__ import annotations

from dataclasses import replace

import pytest

from edge_llava.device.profile import DeviceSettings
from edge_llava.measuring.spread import Spread, summarize
from edge_llava.measuring.trials import Coordinate, Trials, descend

START = DeviceSettings(8, True, 8, True, 512, None, "auto")
COORDINATES = [
    Coordinate("repack", (True, False)),
    Coordinate("n_threads", (8, 4, 2, 1), is_chain=True),
    Coordinate("n_batch", (256, 128, 1024)),
    Coordinate("flash_attention", (None, False)),
]


class Device:
    """A device whose every run takes what its settings cost, by its own clock."""

    def __init__(self, seconds):
        self.now, self.log, self._seconds = 0.0, [], seconds

    def __call__(self, settings):
        self.log.append(settings)
        self.now += self._seconds(settings)
        return self._seconds(settings)

    def clock(self):
        return self.now


def seconds(settings):
    return (
        1.0
        + 0.5 * settings.repack
        + 0.3 * abs(settings.n_threads - 4)
        + 0.1 * (settings.n_batch != 256)
        + 0.2 * (settings.flash_attention is None)
    )


def cost(trial):
    return trial.median(lambda value: value)


def test_descent_finds_the_least_of_a_separable_cost():
    device = Device(seconds)
    best = descend(Trials(device, 1e9, device.clock), START, COORDINATES, cost)
    assert best.settings == replace(START, repack=False, n_threads=4, n_batch=256, flash_attention=False)
    assert cost(best) == pytest.approx(1.0)


def test_a_chain_ends_where_it_gets_worse():
    device = Device(seconds)
    descend(Trials(device, 1e9, device.clock), START, [COORDINATES[1]], cost)
    assert {settings.n_threads for settings in device.log} == {8, 4, 2}


def test_repeats_take_turns_and_leave_out_the_hopeless():
    device = Device(lambda settings: {512: 1.0, 256: 1.1, 128: 5.0, 1024: 1.2}[settings.n_batch])
    descend(Trials(device, 1e9, device.clock), START, [COORDINATES[2]], cost)
    assert [settings.n_batch for settings in device.log] == [512, 256, 128, 1024] + 2 * [512, 256, 1024]


def test_the_median_decides_and_not_a_lucky_run():
    runs = {512: iter([1.0, 1.0, 1.0]), 256: iter([0.9, 1.2, 1.2])}
    trials = Trials(lambda settings: next(runs[settings.n_batch]), 1e9)
    assert descend(trials, START, [Coordinate("n_batch", (256,))], cost).settings.n_batch == 512


def test_one_disturbed_run_is_not_the_end_of_the_best():
    runs = {512: iter([1.0, 1.0, 1.0]), 256: iter([2.5, 0.5, 0.5]), 128: iter([2.5, 2.5])}
    trials = Trials(lambda settings: next(runs[settings.n_batch]), 1e9)
    assert descend(trials, START, [Coordinate("n_batch", (256, 128))], cost).settings.n_batch == 256


@pytest.mark.parametrize("deadline", [0.0, 5.0, 20.0, 60.0])
def test_nothing_is_begun_that_would_not_end_in_time(deadline):
    device = Device(seconds)
    trials = Trials(device, deadline, device.clock)
    best = descend(trials, START, COORDINATES, cost)
    assert device.now <= max(deadline, seconds(START))
    assert len(device.log) >= 1
    assert cost(best) == min(map(cost, trials.all()))
    assert sum(len(trial.samples) for trial in trials.all()) == len(device.log)


def test_of_equals_the_first():
    device = Device(lambda settings: 1.0)
    assert descend(Trials(device, 1e9, device.clock), START, COORDINATES, cost).settings == START


def test_spread():
    assert summarize([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert summarize([4.0]) == Spread(4.0, 4.0, 4.0)
