"""The memory that this process may use: the system's, and the limit of its container."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from edge_llava.device.control_group import ControlGroup
from edge_llava.device.tree import Tree


@dataclass(frozen=True)
class Memory:
    """Main memory, in bytes; None where the system does not tell.

    Attributes:
        total_bytes: Of the system.
        available_bytes: What programs may take without swapping; files that are only cached count as free.
        group_bytes, group_free_bytes: The limit of this process's control group, and what is left of it; None where
            there is no limit.
    """

    total_bytes: int | None
    available_bytes: int | None
    group_bytes: int | None = None
    group_free_bytes: int | None = None

    @property
    def free_bytes(self) -> int | None:
        """What this process may take: the smaller one of what the system and the group have left."""
        known = [size for size in (self.available_bytes, self.group_free_bytes) if size is not None]
        return min(known) if known else None


def read_memory(tree: Tree, sysctl: Mapping[str, str], group: ControlGroup, vm_stat: str = "") -> Memory:
    """Reads /proc/meminfo, or what macOS's `sysctl -a` and `vm_stat` say."""
    if sysctl:
        total = sysctl.get("hw.memsize", "")
        return Memory(int(total) if total.isdigit() else None, _free_on_mac(vm_stat))
    text = tree.text("proc/meminfo")
    total_bytes, available_bytes = _size(text, "MemTotal"), _size(text, "MemAvailable")
    if group.memory_bytes is None or (total_bytes is not None and group.memory_bytes >= total_bytes):
        return Memory(total_bytes, available_bytes)
    left = max(0, group.memory_bytes - group.used_bytes)
    return Memory(total_bytes, available_bytes, group.memory_bytes, left)


def _free_on_mac(vm_stat: str) -> int | None:
    """Pages that are free, or that macOS takes back without writing them anywhere."""
    page = re.search(r"page size of (\d+) bytes", vm_stat)
    counts = re.findall(r"^Pages (?:free|inactive|speculative|purgeable):\s*(\d+)\.", vm_stat, re.MULTILINE)
    return int(page[1]) * sum(map(int, counts)) if page and counts else None


def _size(text: str, name: str) -> int | None:
    found = re.search(rf"^{name}:\s*(\d+) kB", text, re.MULTILINE)
    return 1024 * int(found[1]) if found else None
