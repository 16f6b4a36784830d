"""Everything that is known about a device without starting an engine."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_llava.device.control_group import ControlGroup, read_control_group
from edge_llava.device.main_memory import Memory, read_memory
from edge_llava.device.onnx_packages import onnx_packages
from edge_llava.device.threads import usable_threads
from edge_llava.device.tree import Tree
from edge_llava.doctor.children import ask_program
from edge_llava.doctor.graphics import Graphics, read_graphics
from edge_llava.doctor.power import Power, read_power
from edge_llava.doctor.processor import Processor, parse_sysctl, read_processor

_LIMIT_S = 5.0
_NVIDIA_SMI = ("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
_NVCC = "usr/local/cuda/bin/nvcc"  # where it is, and PATH does not say so, on a Jetson


@dataclass(frozen=True)
class System:
    """A device.

    Attributes:
        processor, memory, group, graphics, power: Each by its own file.
        n_threads: CPU threads that the engines take by default.
        onnx_packages: Packages that contain the module onnxruntime, with their versions.
        nvcc: CUDA's compiler: "" none, "nvcc" where it is found by name, else its path.
    """

    processor: Processor
    memory: Memory
    group: ControlGroup
    graphics: tuple[Graphics, ...]
    power: Power
    n_threads: int
    onnx_packages: Mapping[str, str]
    nvcc: str

    @property
    def has_nvidia(self) -> bool:
        """Whether CUDA could run here."""
        return any(one.maker in ("NVIDIA", "Jetson") for one in self.graphics)


def read_system(tree: Tree, *, sysctl: str = "", vm_stat: str = "", nvidia_smi: str = "", nvpmodel: str = "") -> System:
    """Reads a system's files, and what its own programs printed.

    Args:
        tree: The system's files.
        sysctl, vm_stat: Of macOS: `sysctl -a` and `vm_stat`.
        nvidia_smi: As `read_graphics` takes it.
        nvpmodel: Of a Jetson: `nvpmodel -q`.
    """
    values, group = parse_sysctl(sysctl), read_control_group(tree)
    on_path = "nvcc" if shutil.which("nvcc") else ""
    return System(
        processor=read_processor(tree, values),
        memory=read_memory(tree, values, group, vm_stat),
        group=group,
        graphics=read_graphics(tree, values, nvidia_smi),
        power=read_power(tree, nvpmodel),
        n_threads=usable_threads(None),
        onnx_packages=onnx_packages(),
        nvcc=on_path or (f"/{_NVCC}" if (tree.root / _NVCC).is_file() else ""),
    )


def this_system() -> System:
    """Reads this one."""
    programs: dict[str, tuple[str, ...]] = {"nvidia_smi": _NVIDIA_SMI, "nvpmodel": ("nvpmodel", "-q")}
    if sys.platform == "darwin":
        programs |= {"sysctl": ("sysctl", "-a"), "vm_stat": ("vm_stat",)}
    found = {name: ask_program(command, _LIMIT_S) for name, command in programs.items() if shutil.which(command[0])}
    return read_system(
        Tree(Path(os.sep)),
        sysctl=found.get("sysctl", ""),
        vm_stat=found.get("vm_stat", ""),
        nvidia_smi=found.get("nvidia_smi", ""),
        nvpmodel=found.get("nvpmodel", ""),
    )
