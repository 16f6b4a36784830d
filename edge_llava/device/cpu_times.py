"""What other programs take of the CPUs, from the system's own counters.

Source: Linux's Documentation/filesystems/proc.rst, section 1.7; Microsoft's GetSystemTimes.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from dataclasses import dataclass

from edge_llava.device.facts import count_cpus
from edge_llava.device.tree import Tree

BUSY_CPUS = 0.25  # with more of them busy for others, a measurement is not one of this program alone
_BUSY = (1, 2, 3, 6, 7, 8)  # columns of /proc/stat: user, nice, system, irq, softirq, steal
_TICKS_OF_WINDOWS = 1e7  # a second


@dataclass(frozen=True)
class CpuTimes:
    """Counters at a moment; only their differences mean something.

    Attributes:
        at_s: The moment, seconds of `time.monotonic`.
        busy_s: Seconds that the CPUs of this process were busy, all of them together, with anything.
        own_s: Seconds that this process computed, and children of it that have ended.
    """

    at_s: float
    busy_s: float
    own_s: float

    def others_since(self, before: CpuTimes) -> float:
        """How many CPUs other programs kept busy between two moments, on average; 0 where no time passed."""
        seconds = self.at_s - before.at_s
        if seconds <= 0:
            return 0.0
        return max(0.0, self.busy_s - before.busy_s - (self.own_s - before.own_s)) / seconds


def read_cpu_times(tree: Tree | None = None) -> CpuTimes | None:
    """The counters now; None where the system has none that we know, such as on macOS. Takes 0.2 ms."""
    busy = _busy_under_windows() if sys.platform == "win32" else _busy_under_linux(tree or Tree())
    if busy is None:
        return None
    times = os.times()
    return CpuTimes(time.monotonic(), busy, time.process_time() + times.children_user + times.children_system)


_RECENT_S = 5.0


def recent_cpu_times() -> CpuTimes | None:
    """The counters some moments ago, where this process is young, else as they are now."""
    is_recent = _FIRST is not None and time.monotonic() - _FIRST.at_s < _RECENT_S
    return _FIRST if is_recent else read_cpu_times()


def others_since(before: CpuTimes | None) -> float | None:
    """How many CPUs other programs kept busy since then; None where the system does not say it."""
    now = read_cpu_times()
    return None if before is None or now is None else now.others_since(before)


def n_free(others: float) -> float:
    """CPUs of this process that other programs leave to it."""
    return count_cpus() - others


def _busy_under_linux(tree: Tree) -> float | None:
    if not hasattr(os, "sched_getaffinity"):
        return None
    ours, ticks = os.sched_getaffinity(0), 0
    lines = [line.split() for line in tree.text("proc/stat").splitlines() if line.startswith("cpu")]
    found = [fields for fields in lines if fields[0][3:].isdecimal() and int(fields[0][3:]) in ours]
    try:
        ticks = sum(int(fields[column]) for fields in found for column in _BUSY)
    except (IndexError, ValueError):
        return None  # a kernel or a sandbox that writes something else
    return ticks / os.sysconf("SC_CLK_TCK") if found else None


def _busy_under_windows() -> float | None:
    if sys.platform != "win32":
        return None
    idle, kernel, user = (ctypes.c_uint64() for _ in range(3))
    if not ctypes.windll.kernel32.GetSystemTimes(ctypes.byref(idle), ctypes.byref(kernel), ctypes.byref(user)):
        return None
    return (kernel.value + user.value - idle.value) / _TICKS_OF_WINDOWS  # the kernel's time contains the idle time


_FIRST = read_cpu_times()  # an engine that is opened soon after this is imported knows at once what others do
