from __future__ import annotations

import pytest

from edge_llava.device.control_group import ControlGroup, read_control_group
from edge_llava.device.main_memory import Memory, read_memory
from edge_llava.device.tree import Tree
from edge_llava.doctor.graphics import Graphics, read_graphics
from edge_llava.doctor.power import read_power
from edge_llava.doctor.processor import parse_sysctl, read_processor

NO_LIMIT = ControlGroup()
VM_STAT = """\
Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                                3000.
Pages active:                            200000.
Pages inactive:                           50000.
Pages speculative:                          700.
Pages wired down:                         90000.
"""
GIB, KIB = 1 << 30, 1 << 10


def test_files_that_are_not_there_or_hold_no_number(tree, tmp_path):
    made = tree({"proc/a": "12", "proc/b": "1000c", "proc/c": "none", "sys/x/temp": 3})
    assert [made.number(f"proc/{name}") for name in "abcd"] == [12, None, None, None]
    assert (made.number("proc/b", 16), made.text("proc"), made.text("none")) == (0x1000C, "", "")
    assert list(made.places("sys/*/temp")) == ["sys/x/temp"]


def test_a_jetson(tree, jetson):
    made = tree(jetson)
    processor = read_processor(made, {})
    assert processor.name == "NVIDIA Jetson Orin Nano Developer Kit"
    assert processor.features == {"NEON", "FP16_VA", "DOTPROD"}
    (graphics,) = read_graphics(made, {})
    assert graphics == Graphics("Jetson", "NVIDIA Jetson Orin Nano Developer Kit", "R36.4.3", "87")
    assert read_memory(made, {}, NO_LIMIT) == Memory(7_790_000 * KIB, 1_500_000 * KIB)
    power = read_power(made, "NV Power Mode: 15W\n0\n")
    assert (power.mode, power.governor, power.heat, power.capped_share) == ("15W", "schedutil", (), 1.0)


def test_a_raspberry_pi(tree, pi):
    made = tree(pi)
    assert read_processor(made, {}).name == "Raspberry Pi 5 Model B Rev 1.0"
    assert read_graphics(made, {}) == ()
    assert read_power(made).heat == (
        "its voltage was too low since it was started",
        "it is throttled now",
        "it is too hot now",
    )


def test_a_laptop(tree, laptop):
    made = tree(laptop)
    processor = read_processor(made, {})
    assert (processor.n_big, processor.n_little) == (8, 4)
    assert processor.features == {"AVX", "AVX2", "F16C", "FMA", "BMI2", "AVX_VNNI"}
    assert read_graphics(made, {}) == (
        Graphics("NVIDIA", "NVIDIA GeForce RTX 4050", "550.54.14"),
        Graphics("Intel", "Intel 0xa7a0"),
    )
    power = read_power(made)
    assert (power.profile, power.on_battery) == ("low-power", True)
    assert power.heat == ("the processor is being slowed down by heat",)


def test_an_nvidia_card_without_its_driver_and_one_of_which_only_a_program_tells(tree, laptop):
    del laptop["proc/driver/nvidia/version"]
    made = tree(laptop)
    assert Graphics("NVIDIA", "NVIDIA 0xa7a0", "") in read_graphics(made, {})
    told = read_graphics(made, {}, "NVIDIA GeForce RTX 4050 Laptop GPU, 576.02\n")
    assert told[0] == Graphics("NVIDIA", "NVIDIA GeForce RTX 4050 Laptop GPU", "576.02")
    assert [one.maker for one in told] == ["NVIDIA", "Intel"]
    failed = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n"
    assert [one.driver for one in read_graphics(made, {}, failed)] == ["", ""]


def test_a_mac(mac):
    values = parse_sysctl(mac)
    processor = read_processor(Tree(), values)
    assert (processor.name, processor.n_big, processor.n_little) == ("Apple M2", 4, 4)
    assert processor.features == {"DOTPROD", "MATMUL_INT8"}
    assert read_graphics(Tree(), values) == (Graphics("Apple", "Apple M2"),)
    assert read_memory(Tree(), values, NO_LIMIT) == Memory(16 * GIB, None)
    assert read_memory(Tree(), values, NO_LIMIT, VM_STAT) == Memory(16 * GIB, (3000 + 50_000 + 700) * 16_384)
    intel = parse_sysctl("machdep.cpu.brand_string: Intel(R) Core(TM) i5\nhw.optional.avx2_0: 1")
    assert read_graphics(Tree(), intel) == ()


def test_a_container_of_version_2(tree):
    made = tree(
        {
            "proc/self/cgroup": "0::/system.slice/docker-1.scope",
            "proc/meminfo": f"MemTotal: {32 << 20} kB\nMemAvailable: {20 << 20} kB",
            "sys/fs/cgroup/system.slice/docker-1.scope/memory.max": 2 * GIB,
            "sys/fs/cgroup/system.slice/docker-1.scope/memory.current": GIB,
            "sys/fs/cgroup/system.slice/docker-1.scope/memory.stat": f"anon 1\ninactive_file {GIB // 2}",
            "sys/fs/cgroup/system.slice/docker-1.scope/cpu.max": "150000 100000",
            "sys/fs/cgroup/system.slice/memory.max": "max",
            "sys/fs/cgroup/system.slice/cpu.max": "max 100000",
        }
    )
    group = read_control_group(made)
    assert group == ControlGroup(2 * GIB, GIB // 2, 1.5)
    memory = read_memory(made, {}, group)
    assert (memory.group_bytes, memory.group_free_bytes, memory.free_bytes) == (2 * GIB, 3 * GIB // 2, 3 * GIB // 2)


@pytest.mark.parametrize("path", ["/", "/docker/0123"])
def test_a_container_of_version_1_whose_path_may_be_the_hosts(tree, path):
    made = tree(
        {
            "proc/self/cgroup": f"5:cpu,cpuacct:{path}\n4:memory:{path}\n1:name=systemd:{path}",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": 512 << 20,
            "sys/fs/cgroup/memory/memory.usage_in_bytes": 100 << 20,
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": 50_000,
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": 100_000,
        }
    )
    assert read_control_group(made) == ControlGroup(512 << 20, 100 << 20, 0.5)


def test_no_container(tree):
    made = tree(
        {
            "proc/self/cgroup": "4:memory:/user\n3:cpu:/\n0::/",
            "proc/meminfo": "MemTotal: 1000 kB\nMemAvailable: 600 kB",
            "sys/fs/cgroup/memory/user/memory.limit_in_bytes": 9_223_372_036_854_771_712,
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": -1,
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": 100_000,
        }
    )
    assert read_control_group(made) == NO_LIMIT
    assert read_memory(made, {}, ControlGroup(2_000_000)).group_bytes is None  # more than there is
    assert read_memory(Tree(made.root / "none"), {}, NO_LIMIT).free_bytes is None
