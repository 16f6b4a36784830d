"""How much CPU time the control group of this process may take, which is what `docker run --cpus` sets.

Source: Linux's Documentation/admin-guide/cgroup-v2.rst and scheduler/sched-bwc.rst.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_MOUNT = "sys/fs/cgroup"
_VERSION_1 = ("cpu", "cpu,cpuacct")  # where the controller's groups are


def read_cpu_quota(root: Path) -> float | None:
    """CPUs' worth of time, such as 1.5: the least that the group or one that it is in may take; None without a limit.

    Args:
        root: "/", or a copy of the system's /proc and /sys.
    """
    groups: dict[str, str] = {}
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, place = line.partition(":")
        controllers, _, path = place.partition(":")
        groups.update(dict.fromkeys(controllers.split(","), path))
    mount = root / _MOUNT
    quotas = [_version_2(mount / group) for group in _with_ancestors(groups.get("", "/"))]
    for controller in _VERSION_1:
        quotas += [_version_1(mount / controller / group) for group in _with_ancestors(groups.get("cpu", "/"))]
    return min((quota for quota in quotas if quota is not None), default=None)


def within_quota(n_cpus: int, quota: float | None) -> int:
    """At most as many CPUs, or threads, as a quota keeps busy, such as two for 1.5; None: no limit."""
    return n_cpus if quota is None else max(1, min(n_cpus, math.ceil(quota)))


def _with_ancestors(path: str) -> Iterator[PurePosixPath]:
    """A group and those that it is in. In a container the path may be the host's, of which only the root is there."""
    group = PurePosixPath(path.lstrip("/"))
    yield from (place for place in (group, *group.parents) if ".." not in place.parts)


def _version_2(group: Path) -> float | None:
    return _divide(*_read(group / "cpu.max").partition(" ")[::2])


def _version_1(group: Path) -> float | None:
    return _divide(_read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us"))


def _divide(quota: str, period: str) -> float | None:
    """Microseconds of CPU time in each period; the quota is "max" or -1 where there is no limit."""
    if not (quota.isdecimal() and period.isdecimal() and int(period)):
        return None
    return int(quota) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
