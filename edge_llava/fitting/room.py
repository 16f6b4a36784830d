"""The memory that is free for a bundle, and whether it suffices."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from edge_llava.device.address_space import free_address_bytes
from edge_llava.device.control_group import read_control_group
from edge_llava.device.main_memory import read_memory
from edge_llava.device.tree import Tree
from edge_llava.fitting.needs import MAIN, MemoryNeeds
from edge_llava.ggml.devices import GgmlDevice

_SYSTEM = Tree()
_SPARE = 0.1  # of a GPU's memory, which also draws the screen
_SPARE_BYTES = 512 << 20
# "slow": weights that are mapped do not stay in memory, and are read from the disk again for every token
Verdict = Literal["fits", "slow", "too much"]


@dataclass(frozen=True)
class Room:
    """What is free, in bytes.

    Attributes:
        main_bytes: Of main memory; None where the system does not tell.
        address_bytes: Of this process's address space; None where it is not limited.
        gpu_bytes: Of each GPU, by llama.cpp's name for it; without those that do not tell.
        shared: GPUs that are a part of the processor: what is on them is main memory.
    """

    main_bytes: int | None
    address_bytes: int | None = None
    gpu_bytes: Mapping[str, int] | None = None
    shared: frozenset[str] = frozenset()

    def judge(self, needs: MemoryNeeds) -> Verdict:
        """Whether a bundle fits."""
        kept, whole = needs.kept_bytes + self.shared_bytes(needs), self.main_needs(needs)
        if not self.has_gpus_for(needs):
            return "too much"
        if self.address_bytes is not None and whole > self.address_bytes:
            return "too much"
        if self.main_bytes is None or whole <= self.main_bytes:
            return "fits"
        return "slow" if kept <= self.main_bytes else "too much"

    def has_gpus_for(self, needs: MemoryNeeds) -> bool:
        """Whether what is on GPUs with memory of their own fits there."""
        limits = self.gpu_bytes or {}
        return all(needs.on_device(name) <= limits[name] for name in needs.devices if name in limits)

    def shared_bytes(self, needs: MemoryNeeds) -> int:
        """What GPUs that are a part of the processor take of main memory."""
        return sum(needs.on_device(name) for name in self.shared)

    def main_needs(self, needs: MemoryNeeds) -> int:
        """All that is taken of main memory."""
        return needs.n_bytes + self.shared_bytes(needs)

    def free_of(self, device: str) -> int | None:
        """Free bytes of a device of `MemoryNeeds`; None where nobody knows."""
        if device != MAIN:
            return (self.gpu_bytes or {}).get(device)
        known = [size for size in (self.main_bytes, self.address_bytes) if size is not None]
        return min(known) if known else None


def read_room(devices: tuple[GgmlDevice, ...] = (), tree: Tree = _SYSTEM) -> Room:
    """What is free now.

    Args:
        devices: The GPUs that are used.
        tree: The system's /proc and /sys, or a copy.
    """
    memory = read_memory(tree, {}, read_control_group(tree)) if sys.platform == "linux" else None
    # Tegra's CUDA device is a part of the processor, and does not say so
    in_processor = {device.name for device in devices if device.backend == "CUDA"} if _is_tegra(tree) else set[str]()
    shared = frozenset(in_processor | {device.name for device in devices if device.kind == "igpu"})
    return Room(
        None if memory is None else memory.free_bytes,
        free_address_bytes(),
        {
            device.name: max(0, device.free_bytes - max(int(_SPARE * device.total_bytes), _SPARE_BYTES))
            for device in devices
            if device.name not in shared and device.total_bytes
        },
        shared,
    )


def _is_tegra(tree: Tree) -> bool:
    return bool(tree.text("etc/nv_tegra_release"))
