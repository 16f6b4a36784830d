"""Made-up systems: trees of files, as /proc and /sys show them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from edge_llava.device.tree import Tree


@pytest.fixture
def tree(tmp_path: Path) -> Callable[[Mapping[str, object]], Tree]:
    """tree({"proc/meminfo": "..."}) -> a Tree of those files."""

    def make(files: Mapping[str, object]) -> Tree:
        for place, content in files.items():
            path = tmp_path / "root" / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{content}\n")
        return Tree(tmp_path / "root")

    return make


@pytest.fixture
def jetson() -> dict[str, object]:
    """A Jetson Orin Nano in its 15 W mode."""
    return {
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64",
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
        "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005\0nvidia,p3767-0005\0nvidia,tegra234\0",
        "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd fphp asimdhp asimddp\nCPU part\t: 0xd42",
        "proc/meminfo": "MemTotal:        7790000 kB\nMemFree:  100000 kB\nMemAvailable:    1500000 kB",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": 1_510_400,
        "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": 1_510_400,
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
        "sys/class/thermal/thermal_zone0/temp": 51_000,
    }


@pytest.fixture
def pi() -> dict[str, object]:
    """A Raspberry Pi 5 that is hot, and whose supply was too weak before."""
    return {
        "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
        "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd asimdhp asimddp\n\nModel\t\t: Raspberry Pi 5",
        "proc/meminfo": "MemTotal: 8245000 kB\nMemAvailable: 7000000 kB",
        "sys/devices/platform/soc/soc:firmware/get_throttled": "1000c",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand",
    }


@pytest.fixture
def laptop() -> dict[str, object]:
    """A laptop with fast and slow cores, an Intel and an NVIDIA GPU, on its battery and in its saving profile."""
    flags = "fpu avx avx2 f16c fma bmi2 avx_vnni"
    files: dict[str, object] = {
        "proc/cpuinfo": f"processor\t: 0\nmodel name\t: 13th Gen Intel(R) Core(TM) i7-1360P\nflags\t\t: {flags}",
        "proc/meminfo": "MemTotal: 16000000 kB\nMemAvailable: 9000000 kB",
        "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.14  Release",
        "proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t\t NVIDIA GeForce RTX 4050\nIRQ:   \t\t 180",
        "sys/firmware/acpi/platform_profile": "low-power",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_driver": "intel_pstate",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave",  # which is what is usual with this driver
        "sys/class/power_supply/BAT0/status": "Discharging",
        "sys/class/power_supply/AC/online": 0,
        "sys/class/thermal/cooling_device0/type": "Processor",
        "sys/class/thermal/cooling_device0/cur_state": 2,
    }
    for cpu in range(12):
        files[f"sys/devices/system/cpu/cpu{cpu}/cpufreq/cpuinfo_max_freq"] = 5_000_000 if cpu < 8 else 3_700_000
    for slot, vendor, kind in (("00:02.0", "0x8086", "0x030000"), ("01:00.0", "0x10de", "0x030200")):
        files[f"sys/bus/pci/devices/0000:{slot}/vendor"] = vendor
        files[f"sys/bus/pci/devices/0000:{slot}/class"] = kind
        files[f"sys/bus/pci/devices/0000:{slot}/device"] = "0xa7a0"
    files["sys/bus/pci/devices/0000:03:00.0/vendor"] = "0x8086"
    files["sys/bus/pci/devices/0000:03:00.0/class"] = "0x028000"  # a network card
    return files


MAC = """\
hw.memsize: 17179869184
hw.logicalcpu: 8
hw.perflevel0.logicalcpu: 4
hw.perflevel1.logicalcpu: 4
hw.optional.arm.FEAT_DotProd: 1
hw.optional.arm.FEAT_I8MM: 1
hw.optional.arm.FEAT_SME: 0
machdep.cpu.brand_string: Apple M2
"""


@pytest.fixture
def mac() -> str:
    """What `sysctl -a` says on a Mac."""
    return MAC
