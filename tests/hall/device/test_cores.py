"""Made-up systems: what /sys, sysctl and Windows say of them, and the cores that are found."""

from __future__ import annotations

import os
import struct
import sys

import pytest

from edge_llava.device.cores import Cores, linux_cores, mac_cores, this_cores, windows_cores

CPUS = "sys/devices/system/cpu"
CAPACITY, CLOCK = "cpu_capacity", "cpufreq/cpuinfo_max_freq"


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def write_cpus(root, siblings, speeds=(), place=CAPACITY):
    for cpu, text in enumerate(siblings):
        write(root / CPUS / f"cpu{cpu}/topology/thread_siblings_list", text)
    for cpu, speed in enumerate(speeds):
        write(root / CPUS / f"cpu{cpu}" / place, speed)


def alone(n):
    return [str(cpu) for cpu in range(n)]


def paired(n):
    return [f"{cpu // 2 * 2}-{cpu // 2 * 2 + 1}" for cpu in range(n)]


def test_on_this_machine():
    cores = this_cores()
    assert 1 <= cores.n_big <= cores.n_all <= os.cpu_count()


@pytest.mark.parametrize(("usable", "n_cores"), [({0, 1, 2, 3}, 2), ({0, 2}, 1), ({1, 2}, 2), ({3}, 1)])
def test_siblings_count_once(usable, n_cores, tmp_path):
    write_cpus(tmp_path, [f"{cpu % 2},{cpu % 2 + 2}" for cpu in range(4)])
    assert linux_cores(tmp_path, usable) == Cores(n_cores, n_cores)


def test_unknown_topology(tmp_path):
    assert linux_cores(tmp_path, {0, 1, 5}) == Cores(3, 3)


@pytest.mark.parametrize(
    ("siblings", "speeds", "place", "usable", "cores"),
    [
        (alone(8), [414] * 4 + [1024] * 4, CAPACITY, range(8), Cores(8, 4)),  # RK3588
        (alone(8), [414] * 4 + [1024] * 4, CAPACITY, range(6), Cores(6, 2)),
        (alone(8), [414] * 4 + [1024] * 4, CAPACITY, range(4), Cores(4, 4)),  # bound to the little ones
        (alone(8), [325] * 4 + [871] * 3 + [1024], CAPACITY, range(8), Cores(8, 4)),  # little, big, prime
        (alone(6), [5200, 5200, 5400, 5400, 3900, 3900], CLOCK, range(6), Cores(6, 4)),
        (paired(8), [4000] * 8, CLOCK, range(8), Cores(4, 4)),
        (alone(4), [1] * 3 + [9], "elsewhere", range(4), Cores(4, 4)),
        (alone(4), [1000, "", 1000, 1000], CLOCK, range(4), Cores(4, 4)),
    ],
)
def test_big_cores_are_near_the_strongest(siblings, speeds, place, usable, cores, tmp_path):
    write_cpus(tmp_path, siblings, speeds, place)
    assert linux_cores(tmp_path, usable) == cores


@pytest.mark.parametrize(
    ("listed", "usable", "cores"),
    [
        ("0-11", range(20), Cores(14, 6)),
        ("0-3,8,10-11", range(20), Cores(14, 4)),
        ("0-11", range(12, 20), Cores(8, 8)),  # bound to the efficiency cores
        ("", range(20), Cores(14, 14)),
        ("what", range(20), Cores(14, 14)),
    ],
)
def test_intel_says_which_are_performance_cores(listed, usable, cores, tmp_path):
    write_cpus(tmp_path, paired(12) + alone(20)[12:])
    write(tmp_path / "sys/devices/cpu_core/cpus", listed)
    assert linux_cores(tmp_path, usable) == cores


@pytest.mark.parametrize(
    ("numbers", "cores"),
    [
        ({"hw.physicalcpu": 10, "hw.perflevel0.physicalcpu": 8}, Cores(10, 8)),  # M1 Pro
        ({"hw.physicalcpu": 4}, Cores(4, 4)),  # with Intel's processor
    ],
)
def test_macos(numbers, cores):
    assert mac_cores(numbers.get) == cores


def record(efficiency, *groups):
    """SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX of a core, as winnt.h has it for 64 bits."""
    masks = b"".join(struct.pack("<QH6x", mask, number) for mask, number in groups)
    body = struct.pack("<BB20xH", 1, efficiency, len(groups)) + masks
    return struct.pack("<II", 0, 8 + len(body)) + body


def test_windows():
    hybrid = [record(1, (3 << 2 * core, 0)) for core in range(4)] + [record(0, (1 << cpu, 0)) for cpu in range(8, 16)]
    assert windows_cores(b"".join(hybrid), 0xFFFF) == Cores(12, 4)
    assert windows_cores(b"".join(hybrid), 0x0103) == Cores(2, 1)  # one of each kind is in the mask
    assert windows_cores(b"".join(hybrid), 0xFF00) == Cores(8, 8)
    assert windows_cores(b"".join(hybrid), 0) == Cores(12, 4)
    many = [record(0, (1 << cpu, group)) for group in range(2) for cpu in range(64)]
    assert windows_cores(b"".join(many), 0xFF) == Cores(128, 128)  # the mask is of one group only
    assert windows_cores(b"", 1) is None


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="these count cores in another way")
def test_a_system_that_says_nothing(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert this_cores() == Cores(1, 1)
