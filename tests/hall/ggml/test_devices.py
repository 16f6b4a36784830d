from __future__ import annotations

import llama_cpp
import pytest

from edge_llava.errors import BackendError
from edge_llava.ggml.devices import (
    GgmlDevice,
    choose_devices,
    describe_place,
    device_array,
    list_devices,
    offload_devices,
)


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
        ([CUDA0, CPU], -1, "CUDA0 33/33"),
        ([CUDA0, CPU], 0, "cpu"),
        ([CUDA0, CPU], 20, "CUDA0 20/33"),
        ([CUDA0, CPU], 99, "CUDA0 33/33"),
        ([CUDA0, CUDA1, INTEGRATED, CPU], -1, "CUDA0+CUDA1 33/33"),
        ([INTEGRATED, device("Vulkan1", "igpu"), CPU], -1, "Vulkan0 33/33"),
    ],
)
def test_where_blocks_go(devices, n_gpu_layers, place):
    assert describe_place(choose_devices(devices, None, n_gpu_layers), n_gpu_layers, 32) == place


@pytest.mark.parametrize(
    ("names", "n_gpu_layers", "chosen"),
    [
        (("CUDA1",), -1, (CUDA1,)),
        (("vulkan0", "cuda0", "CUDA0"), 20, (INTEGRATED, CUDA0)),
        ((), -1, ()),
        (None, 0, ()),
        (("elsewhere",), 0, ()),
    ],
)
def test_devices_are_chosen_by_name(names, n_gpu_layers, chosen):
    assert choose_devices([CUDA0, CUDA1, INTEGRATED, BLAS, CPU], names, n_gpu_layers) == chosen


@pytest.mark.parametrize(
    ("devices", "names", "n_gpu_layers", "says"),
    [
        ([CUDA0, INTEGRATED, CPU], ("CUDA0", "CUDA7"), -1, r"no device CUDA7 .* There is CUDA0 \(.*\), Vulkan0 \("),
        ([BLAS, CPU], ("BLAS",), -1, "no device BLAS .* It sees no GPU here"),
        ([CPU], ("CPU",), -1, "no device CPU "),
        ([BLAS, CPU], None, 20, "sees no GPU for 20 blocks"),  # also where a backend without a device supports offload
    ],
)
def test_what_cannot_be_obeyed_is_an_error(devices, names, n_gpu_layers, says):
    with pytest.raises(BackendError, match=says):
        choose_devices(devices, names, n_gpu_layers)


def test_the_array_of_llama_cpp_ends_with_null():
    assert list(device_array(())) == [None]
    cpu, end = device_array(("CPU",))
    assert (bool(cpu), end) == (True, None)
