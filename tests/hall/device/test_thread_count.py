"""Fewer threads compute while other programs keep CPUs busy."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_llava.device.cpu_times import CpuTimes, read_cpu_times
from edge_llava.device.facts import count_cpus
from edge_llava.device.thread_count import ThreadCount
from edge_llava.device.tree import Tree

N_CPUS = count_cpus()


def counters(*others: float) -> Iterator[CpuTimes]:
    """Readings, a quarter of a second apart, between which others keep so many CPUs busy and this process one."""
    busy, own, at = 100.0, 7.0, 50.0
    yield CpuTimes(at, busy, own)
    for n in others:
        at, busy, own = at + 0.25, busy + 0.25 * (1 + n), own + 0.25
        yield CpuTimes(at, busy, own)


def numbers(n_most: int, *others: float) -> list[int]:
    """The number of threads after each of these windows."""
    readings = list(counters(*others))
    moments, left = iter([reading.at_s for reading in readings[1:]]), iter(readings[1:])
    threads = ThreadCount(n_most, before=readings[0], read=lambda: next(left), clock=lambda: next(moments))
    found = [threads.n]
    for _ in others[1:]:
        threads.update()
        found.append(threads.n)
    return found


@pytest.mark.skipif(N_CPUS < 2, reason="one CPU has one thread")
def test_one_thread_fewer_for_each_busy_program() -> None:
    assert numbers(N_CPUS, 0, 0) == [N_CPUS, N_CPUS]
    assert numbers(N_CPUS, 1.0) == [N_CPUS - 1]
    assert numbers(N_CPUS, 2 / 3) == [N_CPUS - 1]  # what it gets beside as many threads as CPUs
    assert numbers(N_CPUS, 0.3) == [N_CPUS]  # what others take now and then is no reason
    assert numbers(N_CPUS, N_CPUS + 3) == [1]


@pytest.mark.skipif(N_CPUS < 2, reason="one CPU has one thread")
def test_it_takes_a_while_before_there_are_more_again() -> None:
    assert numbers(N_CPUS, 1, 0, 0, 0) == [N_CPUS - 1, N_CPUS - 1, N_CPUS, N_CPUS]
    assert numbers(N_CPUS, 1, 0, 1, 0, 1) == [N_CPUS - 1] * 5


@pytest.mark.skipif(N_CPUS < 3, reason="one thread cannot become fewer")
def test_threads_that_are_not_all_needed_leave_room() -> None:
    assert numbers(N_CPUS - 1, 1.0) == [N_CPUS - 1]


def moments(*windows: tuple[float, float, float]) -> tuple[CpuTimes, Iterator[CpuTimes]]:
    """The first reading, and the others: after so many seconds, in which others and this process took so many CPUs."""
    at, busy, own, found = 50.0, 100.0, 7.0, []
    for seconds, others, ours in ((0.0, 0.0, 0.0), *windows):
        at, busy, own = at + seconds, busy + seconds * (others + ours), own + seconds * ours
        found.append(CpuTimes(at, busy, own))
    return found[0], iter(found[1:])


@pytest.mark.skipif(N_CPUS < 2, reason="one CPU has one thread")
@pytest.mark.parametrize(
    ("working", "idle", "after", "expected"),
    [
        # before a pause, the pause, and a window after it: how long, and CPUs that others and this process took
        ((8, 0, 2), (60, N_CPUS, 0), (0.4, 0, 1), [N_CPUS] * 3),  # a build ran, and is done when the question comes
        ((8, N_CPUS, 1), (60, N_CPUS, 0), (0.4, 0, 1), [1, 1, N_CPUS]),
        ((8, 0, 2), (60, 0, 0), (0.4, N_CPUS, 1), [N_CPUS, N_CPUS, 1]),  # one started in the meantime
        ((8, 0, 2), (0.1, 0, 0), (0.4, N_CPUS, 1), [N_CPUS, N_CPUS, 1]),  # too short to matter
    ],
)
def test_what_others_did_in_a_pause_does_not_count(working, idle, after, expected) -> None:
    before, readings = moments(working, idle, after)
    now = before

    def advance() -> None:
        nonlocal now
        now = next(readings)

    threads = ThreadCount(N_CPUS, before=before, read=lambda: now, clock=lambda: now.at_s)
    advance()
    threads.pause()  # the last step was a long one
    found = [threads.n]
    for _ in range(2):
        advance()
        threads.update()
        found.append(threads.n)
    assert found == expected


@pytest.mark.skipif(N_CPUS < 2, reason="one CPU has one thread")
def test_a_long_step_beside_many_programs_is_no_pause() -> None:
    before, readings = moments((10, N_CPUS, 0.05))
    threads = ThreadCount(N_CPUS, before=before, read=lambda: next(readings), clock=lambda: 60.0)
    assert threads.n == 1


def test_a_fixed_number_stays() -> None:
    readings = counters(9, 9)
    threads = ThreadCount(4, adapts=False, before=next(readings), read=lambda: next(readings))
    assert (threads.update(), threads.n) == (False, 4)


def test_too_soon_to_say() -> None:
    first = CpuTimes(1.0, 1.0, 1.0)
    threads = ThreadCount(4, before=first, read=lambda: CpuTimes(1.1, 9.0, 1.0), clock=lambda: 1.1)
    assert (threads.update(), threads.n) == (False, 4)


def test_a_system_without_counters() -> None:
    threads = ThreadCount(4, read=lambda: None)
    assert (threads.update(), threads.n) == (False, 4)


@pytest.mark.parametrize("text", ["", "cpu  1 2 3", "cpu0 1 2 x 4 5 6 7 8", "cpux 1 2 3 4 5 6 7 8", "intr 1 2 3"])
def test_counters_that_say_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "stat").write_text(text)
    assert read_cpu_times(Tree(tmp_path)) is None


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's counters")
def test_the_cpus_of_this_process_are_counted(tmp_path: Path) -> None:
    """Of user, nice, system, idle, iowait, irq, softirq, steal; guests are in user already."""
    (tmp_path / "proc").mkdir()
    ours = sorted(os.sched_getaffinity(0))
    lines = [f"cpu{number} 100 10 20 5000 70 3 4 5 60 0" for number in (*ours, max(ours) + 1)]
    (tmp_path / "proc" / "stat").write_text("\n".join(["cpu  9 9 9 9 9 9 9 9", *lines, "intr 3 4"]))
    times = read_cpu_times(Tree(tmp_path))
    assert times is not None
    assert times.busy_s * os.sysconf("SC_CLK_TCK") == pytest.approx(142 * len(ours))


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's counters")
def test_a_busy_program_is_seen_and_this_process_is_not() -> None:
    command = [sys.executable, "-c", "while True: pass"]
    before = read_cpu_times()
    program = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline:
            pass  # this process computes, too
        now = read_cpu_times()
    finally:
        program.kill()
        program.wait()
    assert before is not None
    assert now is not None
    assert now.own_s - before.own_s > 0.02
    assert now.others_since(before) > 0.3
