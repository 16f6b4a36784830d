"""The limits of this process's control group, which is what makes a container small.

Source: Linux's Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/memory.rst and scheduler/sched-bwc.rst.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from edge_llava.device.tree import Tree

_ROOT = "sys/fs/cgroup"
_CPU_OF_VERSION_1 = ("cpu", "cpu,cpuacct")  # where the controller's groups are
_UNLIMITED = 1 << 60  # version 1 writes a number near 2**63


@dataclass(frozen=True)
class ControlGroup:
    """Limits.

    Attributes:
        memory_bytes: The smallest limit of the group and those that it is in; None: no limit.
        used_bytes: What the group with that limit uses, without files that are only cached.
        n_cpus: CPUs' worth of time that it may take, such as 1.5; None: no limit.
    """

    memory_bytes: int | None = None
    used_bytes: int = 0
    n_cpus: float | None = None

    def at_most(self, n_threads: int) -> int:
        """As many threads as the group keeps busy, such as two with 1.5 CPUs, and no more than given."""
        return n_threads if self.n_cpus is None else max(1, min(n_threads, math.ceil(self.n_cpus)))


def read_control_group(tree: Tree) -> ControlGroup:
    """Reads /proc/self/cgroup and the groups that it names, of version 2 or 1."""
    groups = {}
    for line in tree.text("proc/self/cgroup").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        groups.update(dict.fromkeys(controllers.split(",") if controllers else [""], path))
    memory = [
        *_memory(tree, "", groups.get("", "/"), ("memory.max", "memory.current", "")),
        *_memory(
            tree,
            "memory",
            groups.get("memory", "/"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
        ),
    ]
    limit, used = min(memory, default=(None, 0))
    quotas = [*_quotas(tree, groups.get("", "/")), *_quotas_of_version_1(tree, groups.get("cpu", "/"))]
    return ControlGroup(limit, used, min(quotas, default=None))


def _directories(controller: str, path: str) -> Iterator[str]:
    """The group's directory and those above it. In a container, the path may be the host's: its root is looked at."""
    root = PurePosixPath(_ROOT, controller)
    inner = PurePosixPath(path.lstrip("/"))
    yield from (str(root / part) for part in (inner, *inner.parents) if ".." not in part.parts)


def _memory(tree: Tree, controller: str, path: str, names: tuple[str, str, str]) -> Iterator[tuple[int, int]]:
    limit_name, used_name, prefix = names
    cached_names = {f"{prefix}inactive_file", f"{prefix}active_file"}  # the system drops both before it kills
    for directory in _directories(controller, path):
        limit = tree.number(f"{directory}/{limit_name}")
        if limit is not None and limit < _UNLIMITED:
            stat = (line.partition(" ") for line in tree.text(f"{directory}/memory.stat").splitlines())
            cached = sum(int(size) for name, _, size in stat if name in cached_names)
            yield limit, max(0, (tree.number(f"{directory}/{used_name}") or 0) - cached)


def _quotas(tree: Tree, path: str) -> Iterator[float]:
    for directory in _directories("", path):
        yield from _quota(*tree.text(f"{directory}/cpu.max").partition(" ")[::2])


def _quotas_of_version_1(tree: Tree, path: str) -> Iterator[float]:
    for controller in _CPU_OF_VERSION_1:
        for directory in _directories(controller, path):
            yield from _quota(*(tree.text(f"{directory}/cpu.cfs_{name}_us") for name in ("quota", "period")))


def _quota(quota: str, period: str) -> Iterator[float]:
    """Microseconds of CPU time in each period; the quota is "max" or -1 where there is no limit."""
    if quota.isdecimal() and period.isdecimal() and int(period):
        yield int(quota) / int(period)
