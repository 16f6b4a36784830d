from __future__ import annotations

import llama_cpp
import pytest

from edge_llava.ggml.devices import GgmlDevice, describe_place, list_devices, offload_devices


def device(name, kind):
    return GgmlDevice(name, "", name.rstrip("0123456789"), kind, 0, 0)


CPU, CUDA0, CUDA1 = device("CPU", "cpu"), device("CUDA0", "gpu"), device("CUDA1", "gpu")
INTEGRATED, BLAS = device("Vulkan0", "igpu"), device("BLAS", "accel")


def test_this_build_has_a_cpu():
    devices = list_devices()
    (cpu,) = (one for one in devices if one.kind == "cpu")
    assert (cpu.name, cpu.backend) == ("CPU", "CPU")
    assert cpu.total_bytes >= cpu.free_bytes > 1 << 20
    assert cpu.description
    if not llama_cpp.llama_supports_gpu_offload():
        assert offload_devices(devices) == ()


@pytest.mark.parametrize(
    ("devices", "n_gpu_layers", "place"),
    [
        ([CPU, BLAS], -1, "cpu"),
        ([CPU, BLAS], 99, "cpu"),  # also where a backend without a device says that it supports offload
        ([CUDA0, CPU], -1, "CUDA0 33/33"),
        ([CUDA0, CPU], 0, "cpu"),
        ([CUDA0, CPU], 20, "CUDA0 20/33"),
        ([CUDA0, CPU], 99, "CUDA0 33/33"),
        ([CUDA0, CUDA1, INTEGRATED, CPU], -1, "CUDA0+CUDA1 33/33"),
        ([INTEGRATED, device("Vulkan1", "igpu"), CPU], -1, "Vulkan0 33/33"),
    ],
)
def test_where_blocks_go(devices, n_gpu_layers, place):
    assert describe_place(devices, n_gpu_layers, 32) == place
