from __future__ import annotations

import os

import pytest

from edge_llava.runtime import threads
from edge_llava.runtime.threads import count_cores


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
