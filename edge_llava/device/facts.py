"""What of a device decides which settings are best on it. llama.cpp is loaded where it may see GPUs, to name them."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from edge_llava.device.control_group import read_control_group
from edge_llava.device.cpu_name import read_cpu_name
from edge_llava.device.onnx_packages import expected_provider, onnxruntime_version
from edge_llava.device.tree import Tree
from edge_llava.ggml.library import library_digest, may_see_gpus


@dataclass(frozen=True)
class DeviceFacts:
    """A device, as far as measured settings depend on it.

    Attributes:
        cpu: Model name of the CPU or the board.
        machine: Instruction set: "x86_64", "aarch64".
        n_cpus: Logical CPUs that this process may use, at most as many as its control group has time for.
        llama_cpp, onnxruntime: Versions of the engines; "" where one is not installed.
        llama_cpp_build: Digest of llama.cpp's libraries: builds of one version differ in their kernels.
        language_on: "cpu", or the devices that the language model's blocks are on, and how many: "-1 on CUDA0 ...".
        vision_on: The tower's provider, or what "auto" will try: "cpu", "cuda".
    """

    cpu: str
    machine: str
    n_cpus: int
    llama_cpp: str
    onnxruntime: str
    llama_cpp_build: str
    language_on: str
    vision_on: str


def this_device(
    n_gpu_layers: int = -1, devices: tuple[str, ...] | None = None, vision_provider: str = "auto"
) -> DeviceFacts:
    """The facts of this device, read again at every call.

    Args:
        n_gpu_layers, devices: Where the language model is to run, as in `DecoderOptions`.
        vision_provider: Where the tower is to run, as in `EngineOptions`.

    Raises:
        BackendError: If llama.cpp has no such device.
    """
    return DeviceFacts(
        cpu=_cpu_name() or "unknown",
        machine=platform.machine() or "unknown",
        n_cpus=read_control_group(Tree()).at_most(count_cpus()),
        llama_cpp=_version("llama-cpp-python"),
        onnxruntime=onnxruntime_version(),
        llama_cpp_build=library_digest(),
        language_on=_describe_gpus(n_gpu_layers, devices),
        vision_on=expected_provider(vision_provider),
    )


def _describe_gpus(n_gpu_layers: int, names: tuple[str, ...] | None) -> str:
    if n_gpu_layers == 0 or names == () or (names is None and n_gpu_layers < 0 and not may_see_gpus()):
        return "cpu"
    try:
        from edge_llava.ggml.devices import choose_devices, list_devices

        present = list_devices()
    except (ImportError, OSError, RuntimeError):  # which opening a model explains
        return "unknown"
    used = choose_devices(present, names, n_gpu_layers)
    return f"{n_gpu_layers} on {', '.join(map(str, used))}" if used else "cpu"


def count_cpus() -> int:
    """Logical CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_name() -> str:
    if sys.platform == "darwin":
        return _sysctl(b"machdep.cpu.brand_string")
    if sys.platform != "linux":
        return platform.processor()
    return read_cpu_name(Tree())


def _sysctl(name: bytes) -> str:
    text, size = ctypes.create_string_buffer(256), ctypes.c_size_t(256)
    failed = ctypes.CDLL(None).sysctlbyname(name, text, ctypes.byref(size), None, ctypes.c_size_t(0))
    return "" if failed else text.value.decode("utf-8", "replace")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
