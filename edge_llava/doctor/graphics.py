"""The graphics processors that the system has, whether or not an engine can use them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from edge_llava.device.tree import Tree

Maker = Literal["NVIDIA", "AMD", "Intel", "Apple", "Jetson"]
_MAKERS: Mapping[str, Maker] = {"0x10de": "NVIDIA", "0x1002": "AMD", "0x8086": "Intel"}  # of PCI
# The processor in a Jetson's device tree -> its architecture. Source: NVIDIA's table of compute capabilities.
_TEGRAS = {"tegra194": "72", "tegra234": "87", "tegra264": "110"}
_DISPLAY = "0x03"  # the class of PCI devices that show pictures


@dataclass(frozen=True)
class Graphics:
    """A graphics processor.

    Attributes:
        maker: A "Jetson" is NVIDIA's, and shares the processor's memory.
        name: Its model, where the system tells.
        driver: Version of NVIDIA's driver, or of a Jetson's system ("R36.4.3"); "" for others, and without a driver.
        architecture: What CUDA calls a Jetson's, "87"; "" where nvcc finds it out.
    """

    maker: Maker
    name: str
    driver: str = ""
    architecture: str = ""


def read_graphics(tree: Tree, sysctl: Mapping[str, str], nvidia_smi: str = "") -> tuple[Graphics, ...]:
    """Reads /etc, /proc and /sys, or what macOS's `sysctl -a` says.

    Args:
        tree: The system's files.
        sysctl: Of macOS; empty elsewhere.
        nvidia_smi: What `nvidia-smi --query-gpu=name,driver_version --format=csv,noheader` prints; "" without it.
    """
    brand = sysctl.get("machdep.cpu.brand_string", "")
    if sysctl:
        return (Graphics("Apple", brand),) if brand.startswith("Apple") else ()
    jetson = _jetson(tree)
    if jetson is not None:
        return (jetson,)
    return (*(_of_driver(tree) or _of_smi(nvidia_smi)), *_of_pci(tree, nvidia_smi))


def _jetson(tree: Tree) -> Graphics | None:
    release = re.search(r"R(\d+).*?REVISION: ([\d.]+)", tree.text("etc/nv_tegra_release"))
    model = tree.text("proc/device-tree/model")
    if release is None and "jetson" not in model.lower():
        return None
    compatible = tree.text("proc/device-tree/compatible")
    architecture = next((number for name, number in _TEGRAS.items() if name in compatible), "")
    return Graphics("Jetson", model or "Jetson", f"R{release[1]}.{release[2]}" if release else "", architecture)


def _of_driver(tree: Tree) -> tuple[Graphics, ...]:
    """NVIDIA's of which the kernel's module is loaded."""
    version = re.search(r"Module\s+(?:for \S+\s+)?(\d+[\d.]+)", tree.text("proc/driver/nvidia/version"))
    if version is None:
        return ()
    texts = [tree.text(place) for place in tree.places("proc/driver/nvidia/gpus/*/information")]
    names = [found[1].strip() for found in (re.search(r"Model:\s*(.+)", text) for text in texts) if found]
    return tuple(Graphics("NVIDIA", name, version[1]) for name in names or ["NVIDIA"])


def _of_smi(text: str) -> tuple[Graphics, ...]:
    """Where the driver is the host's: under Windows and in its Linux."""
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines()]
    return tuple(Graphics("NVIDIA", row[0], row[1]) for row in rows if len(row) == 2 and row[1][:1].isdigit())


def _of_pci(tree: Tree, nvidia_smi: str) -> Iterator[Graphics]:
    has_driver = bool(_of_driver(tree) or _of_smi(nvidia_smi))
    for place in tree.places("sys/bus/pci/devices/*"):
        maker = _MAKERS.get(tree.text(f"{place}/vendor"))
        if not tree.text(f"{place}/class").startswith(_DISPLAY) or maker is None or (maker == "NVIDIA" and has_driver):
            continue
        yield Graphics(maker, f"{maker} {tree.text(f'{place}/device')}")
