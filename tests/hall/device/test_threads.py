from __future__ import annotations

import os

import pytest

from edge_llava.device import threads
from edge_llava.device.threads import count_cores, thread_choices


def test_on_this_machine():
    assert 1 <= count_cores() <= os.cpu_count()


@pytest.mark.parametrize(("usable", "n_cores"), [({0, 1, 2, 3}, 2), ({0, 2}, 1), ({1, 2}, 2), ({3}, 1)])
def test_siblings_count_once(usable, n_cores, tmp_path, monkeypatch):
    for cpu in range(4):
        directory = tmp_path / f"cpu{cpu}/topology"
        directory.mkdir(parents=True)
        (directory / "thread_siblings_list").write_text(f"{cpu % 2},{cpu % 2 + 2}\n")
    monkeypatch.setattr(threads, "_TOPOLOGY", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: usable, raising=False)
    assert count_cores() == n_cores


def test_unknown_topology(tmp_path, monkeypatch):
    monkeypatch.setattr(threads, "_TOPOLOGY", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 5}, raising=False)
    assert count_cores() == 3


@pytest.mark.parametrize(("cpu_count", "n_cores"), [(6, 6), (None, 1)])
def test_systems_without_affinity(cpu_count, n_cores, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: cpu_count)
    assert count_cores() == n_cores


def write_topology(root, speeds, place, siblings=lambda cpu: cpu):
    for cpu, speed in enumerate(speeds):
        for path, text in ((place, speed), ("topology/thread_siblings_list", siblings(cpu))):
            file = root / f"cpu{cpu}" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{text}\n")


@pytest.mark.parametrize(
    ("place", "speeds", "n_per_core", "choices"),
    [
        ("cpu_capacity", [325] * 4 + [871] * 3 + [1024], 1, [8, 4]),  # little, big, prime
        ("cpufreq/cpuinfo_max_freq", [5200, 5200, 5400, 5400, 3900, 3900], 1, [6, 4]),
        ("cpufreq/cpuinfo_max_freq", [4000] * 8, 2, [4, 8]),  # all alike, two threads on each core
        ("elsewhere", [1] * 4, 1, [4]),
    ],
)
def test_choices_tell_big_cores_and_logical_ones(place, speeds, n_per_core, choices, tmp_path, monkeypatch):
    write_topology(tmp_path, speeds, place, lambda cpu: cpu // n_per_core)
    monkeypatch.setattr(threads, "_TOPOLOGY", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(len(speeds))), raising=False)
    assert thread_choices() == choices
