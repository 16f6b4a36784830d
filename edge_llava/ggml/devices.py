"""The devices that llama.cpp's backends offer, and where it puts a model's blocks.

Source: ggml-backend.h, and llama_prepare_model_devices in llama.cpp: all GPUs are used, else one that is a part of the
processor.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edge_llava.errors import BackendError
from edge_llava.ggml.library import bind
from edge_llava.ggml.plugins import load_plugins

DeviceKind = Literal["cpu", "gpu", "igpu", "accel"]
_KINDS: tuple[DeviceKind, ...] = ("cpu", "gpu", "igpu", "accel")  # ggml_backend_dev_type


@dataclass(frozen=True)
class GgmlDevice:
    """A device of one of llama.cpp's backends.

    Attributes:
        name: "CPU", "CUDA0", "Vulkan0", "MTL0".
        description: Its maker's name for it.
        backend: "CPU", "CUDA", "Vulkan".
        kind: "gpu" has memory of its own, an "igpu" shares the processor's; "accel" helps the CPU.
        free_bytes, total_bytes: Its memory; both 0 where the backend does not know.
    """

    name: str
    description: str
    backend: str
    kind: DeviceKind
    free_bytes: int
    total_bytes: int

    def __str__(self) -> str:
        """What it is, without what changes: "CUDA0 (gpu, NVIDIA RTX A2000)"."""
        return f"{self.name} ({self.kind}, {self.description})"


def list_devices() -> tuple[GgmlDevice, ...]:
    """All devices of the installed llama.cpp and its plug-ins. The first call starts its backends.

    Raises:
        BackendError: If the library lacks a function, or a plug-in does not belong to it.
    """
    load_plugins()
    pointer, text = ctypes.c_void_p, ctypes.c_char_p
    count = bind("ggml_backend_dev_count", ctypes.c_size_t, [])
    get = bind("ggml_backend_dev_get", pointer, [ctypes.c_size_t])
    name = bind("ggml_backend_dev_name", text, [pointer])
    description = bind("ggml_backend_dev_description", text, [pointer])
    kind = bind("ggml_backend_dev_type", ctypes.c_int, [pointer])
    size = ctypes.POINTER(ctypes.c_size_t)
    memory = bind("ggml_backend_dev_memory", None, [pointer, size, size])
    backend = bind("ggml_backend_reg_name", text, [pointer])
    backend_of = bind("ggml_backend_dev_backend_reg", pointer, [pointer])
    devices = []
    for device in map(get, range(count())):
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        memory(device, ctypes.byref(free), ctypes.byref(total))
        number = kind(device)
        devices.append(
            GgmlDevice(
                name(device).decode("utf-8", "replace"),
                description(device).decode("utf-8", "replace").strip(),
                backend(backend_of(device)).decode("utf-8", "replace"),
                _KINDS[number] if number < len(_KINDS) else "accel",
                free.value,
                total.value,
            )
        )
    return tuple(devices)


def offload_devices(devices: Sequence[GgmlDevice]) -> tuple[GgmlDevice, ...]:
    """Those that blocks of a model are put on: all GPUs, else the first one that is a part of the processor."""
    own = tuple(device for device in devices if device.kind == "gpu")
    return own or tuple(device for device in devices if device.kind == "igpu")[:1]


def choose_devices(
    present: Sequence[GgmlDevice], names: Sequence[str] | None, n_gpu_layers: int
) -> tuple[GgmlDevice, ...]:
    """The devices that blocks of a model are put on; empty: everything is computed on the CPU.

    Args:
        present: As of `list_devices`.
        names: Those that are wanted, in any case of letters; None: as `offload_devices`.
        n_gpu_layers: Blocks that are wanted there; negative: as many as there are, if there is a device.

    Raises:
        BackendError: If there is no device of a name, or none at all for blocks that are wanted on one.
    """
    if n_gpu_layers == 0:
        return ()
    if names is None:
        chosen = offload_devices(present)
        if n_gpu_layers > 0 and not chosen:
            raise BackendError(
                f"llama.cpp sees no GPU for {n_gpu_layers} blocks of the model (--gpu-layers). "
                "Leave it out to compute on the CPU. See: edge-llava doctor"
            )
        return chosen
    known = {device.name.casefold(): device for device in present if device.kind in ("gpu", "igpu")}
    missing = [name for name in names if name.casefold() not in known]
    if missing:
        there = ", ".join(map(str, known.values()))
        raise BackendError(
            f"llama.cpp has no device {', '.join(missing)} (--device). "
            + (f"There is {there}." if there else "It sees no GPU here. See: edge-llava doctor")
        )
    return tuple(dict.fromkeys(known[name.casefold()] for name in names))


@functools.cache
def device_array(names: tuple[str, ...]) -> Any:
    """The devices of these names as llama.cpp's parameters take them: a C array that ends with NULL. It is kept."""
    by_name = bind("ggml_backend_dev_by_name", ctypes.c_void_p, [ctypes.c_char_p])
    return (ctypes.c_void_p * (len(names) + 1))(*(by_name(name.encode()) for name in names))


def describe_place(devices: Sequence[GgmlDevice], n_gpu_layers: int, n_layer: int) -> str:
    """Where a model of `n_layer` blocks runs: "cpu", or "Vulkan0 33/33", which counts the output layer, too.

    Args:
        devices: As of `choose_devices`.
        n_gpu_layers: As asked for; negative: all.
        n_layer: Blocks of the model.
    """
    n_all = n_layer + 1
    n = n_all if n_gpu_layers < 0 else min(n_gpu_layers, n_all)
    return f"{'+'.join(device.name for device in devices)} {n}/{n_all}" if devices else "cpu"
