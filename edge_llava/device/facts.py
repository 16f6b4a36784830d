"""What of a device decides which settings are best on it. No engine is loaded to find out."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_CPU_NAME = re.compile(r"^(?:model name|Hardware)\s*:\s*(.+)$", re.MULTILINE)
_HEAD_BYTES = 4096  # /proc/cpuinfo repeats itself for every CPU: the first is enough


@dataclass(frozen=True)
class DeviceFacts:
    """A device, as far as measured settings depend on it.

    Attributes:
        cpu: Model name of the CPU or the board.
        machine: Instruction set: "x86_64", "aarch64".
        n_cpus: Logical CPUs that this process may use.
        llama_cpp, onnxruntime: Versions of the engines; "" where one is not installed.
    """

    cpu: str
    machine: str
    n_cpus: int
    llama_cpp: str
    onnxruntime: str


def this_device() -> DeviceFacts:
    """The facts of this device, read again at every call."""
    return DeviceFacts(
        cpu=_cpu_name() or "unknown",
        machine=platform.machine() or "unknown",
        n_cpus=count_cpus(),
        llama_cpp=_version("llama-cpp-python"),
        onnxruntime=_version("onnxruntime") or _version("onnxruntime-gpu"),
    )


def count_cpus() -> int:
    """Logical CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_name() -> str:
    if sys.platform == "darwin":
        return _sysctl(b"machdep.cpu.brand_string")
    if sys.platform != "linux":
        return platform.processor()
    name = _CPU_NAME.search(_read(Path("/proc/cpuinfo")))
    # ARM's cpuinfo names no model, the board does
    return name[1].strip() if name else _read(Path("/proc/device-tree/model")).strip("\0\n ")


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def _sysctl(name: bytes) -> str:
    text, size = ctypes.create_string_buffer(256), ctypes.c_size_t(256)
    failed = ctypes.CDLL(None).sysctlbyname(name, text, ctypes.byref(size), None, ctypes.c_size_t(0))
    return "" if failed else text.value.decode("utf-8", "replace")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
