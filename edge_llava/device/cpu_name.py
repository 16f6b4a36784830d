"""What a processor is called, as Linux tells it: by its model, or else its board's, or else its maker's numbers."""

from __future__ import annotations

import re

from edge_llava.device.tree import Tree

_BOARD = "proc/device-tree/model"


def read_cpu_name(tree: Tree) -> str:
    """The name; "" where the system does not tell.

    Only /proc/cpuinfo of x86 names a model. On Arm the device tree names the board, but containers hide it and servers
    have none; the kernel's "Hardware" is the family of a chip alone.
    """
    text = tree.text("proc/cpuinfo")
    arm = f"Arm {cpu_field(text, 'CPU implementer')}/{cpu_field(text, 'CPU part')}"
    names = (cpu_field(text, "model name"), tree.text(_BOARD), cpu_field(text, "Model"), cpu_field(text, "Hardware"))
    return next(filter(None, names), arm if cpu_field(text, "CPU part") else "")


def cpu_field(text: str, name: str) -> str:
    """A field of /proc/cpuinfo, of the first CPU that has it; "" if none has."""
    found = re.search(rf"^{name}\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else ""
