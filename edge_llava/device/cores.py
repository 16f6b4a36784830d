"""The physical cores that this process may use, and the big ones among them: on big.LITTLE boards and hybrid laptops,
a little core takes several times as long for its part, and all others wait for it.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

_CPUS = "sys/devices/system/cpu"
_BIG = 0.8  # of the strongest CPU: little cores lie far below, and one favoured core does not make the rest little


@dataclass(frozen=True)
class Cores:
    """Physical cores. The threads of one core share its vector units, so matrix work gains nothing from the second.

    Attributes:
        n_all: All that the process may use.
        n_big: Those near the strongest one's speed; as many as `n_all` where all are alike, or the system does not
            distinguish them.
    """

    n_all: int
    n_big: int


def this_cores() -> Cores:
    """The cores of this process."""
    if sys.platform == "darwin":
        return mac_cores(_sysctl_number)
    if sys.platform == "win32":
        return windows_cores(*_windows_records()) or _all_alike(os.cpu_count() or 1)
    if hasattr(os, "sched_getaffinity"):
        return linux_cores(Path("/"), os.sched_getaffinity(0))
    return _all_alike(os.cpu_count() or 1)


def linux_cores(root: Path, usable: Collection[int]) -> Cores:
    """Reads /sys.

    Big cores are those that the kernel calls so on Intel's hybrid processors (cpu_core), or else those of the highest
    capacity (ARM) or clock.

    Args:
        root: "/", or a copy of the system's files.
        usable: Numbers of the CPUs that the process may use.
    """
    try:
        core_of = {cpu: (root / _CPUS / f"cpu{cpu}/topology/thread_siblings_list").read_text() for cpu in usable}
    except OSError:
        core_of = {cpu: str(cpu) for cpu in usable}
    big = _intel_big_cpus(root) & set(usable) or _fast_cpus(root, usable) or usable
    return Cores(max(1, len(set(core_of.values()))), max(1, len({core_of[cpu] for cpu in big})))


def _intel_big_cpus(root: Path) -> set[int]:
    """The CPUs of performance cores, a list such as "0-7,9"; empty where there is only one kind."""
    try:
        spans = (root / "sys/devices/cpu_core/cpus").read_text().strip().split(",")
        ends = [span.partition("-") for span in spans]
        return {cpu for first, dash, last in ends for cpu in range(int(first), int(last if dash else first) + 1)}
    except (OSError, ValueError):
        return set()


def _fast_cpus(root: Path, usable: Collection[int]) -> set[int]:
    for place in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        try:
            speeds = {cpu: int((root / _CPUS / f"cpu{cpu}" / place).read_text()) for cpu in usable}
        except (OSError, ValueError):
            continue
        return {cpu for cpu, speed in speeds.items() if speed >= _BIG * max(speeds.values())}
    return set()


def mac_cores(sysctl: Callable[[str], int | None]) -> Cores:
    """Asks macOS.

    Args:
        sysctl: Gives the number of a name; None where there is no such name, as perflevel0 on Intel's Macs.
    """
    n_all = sysctl("hw.physicalcpu") or os.cpu_count() or 1
    return Cores(n_all, min(n_all, sysctl("hw.perflevel0.physicalcpu") or n_all))


def windows_cores(records: bytes, usable_mask: int) -> Cores | None:
    """Reads what GetLogicalProcessorInformationEx(RelationProcessorCore) of 64-bit Windows wrote.

    Args:
        records: SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX, one of each core.
        usable_mask: CPUs that the process may use, a bit of each; it counts where there are at most 64 CPUs.

    Returns:
        None if there is none.
    """
    found: list[tuple[int, list[tuple[int, int]]]] = []  # efficiency class, and mask and number of its groups
    at = 0
    while at + 32 <= len(records):
        size, efficiency, n_groups = (
            struct.unpack_from(kind, records, at + offset)[0] for kind, offset in (("<I", 4), ("<B", 9), ("<H", 30))
        )
        groups = [struct.unpack_from("<QH", records, at + 32 + 16 * group) for group in range(n_groups)]
        found.append((efficiency, [(mask, number) for mask, number in groups]))
        at += max(size, 32)
    if all(number == 0 for _, groups in found for _, number in groups):
        found = [core for core in found if any(mask & usable_mask for mask, _ in core[1])] or found
    classes = [efficiency for efficiency, _ in found]
    return Cores(len(classes), classes.count(max(classes))) if classes else None


def _all_alike(n: int) -> Cores:
    return Cores(n, n)


def _sysctl_number(name: str) -> int | None:
    number, size = ctypes.c_int64(), ctypes.c_size_t(8)  # it writes four or eight bytes
    address = ctypes.byref(number)
    failed = ctypes.CDLL(None).sysctlbyname(name.encode(), address, ctypes.byref(size), None, ctypes.c_size_t(0))
    return None if failed else number.value


if sys.platform == "win32":
    from ctypes import wintypes

    _PROCESSOR_CORE = 0

    def _windows_records() -> tuple[bytes, int]:
        """The records of all cores, empty where Windows refuses, and the mask of the CPUs of this process."""
        kernel, size = ctypes.windll.kernel32, wintypes.DWORD(0)
        kernel.GetLogicalProcessorInformationEx(_PROCESSOR_CORE, None, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        if not kernel.GetLogicalProcessorInformationEx(_PROCESSOR_CORE, buffer, ctypes.byref(size)):
            return b"", 0
        mine, all_of_system = ctypes.c_size_t(), ctypes.c_size_t()
        kernel.GetCurrentProcess.restype = wintypes.HANDLE
        kernel.GetProcessAffinityMask.argtypes = [wintypes.HANDLE, ctypes.c_void_p, ctypes.c_void_p]
        kernel.GetProcessAffinityMask(kernel.GetCurrentProcess(), ctypes.byref(mine), ctypes.byref(all_of_system))
        return buffer.raw[: size.value], mine.value
