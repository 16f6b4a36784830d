"""Says before a conversion that there is probably too little memory for it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from edge_llava.device.control_group import read_control_group
from edge_llava.device.main_memory import read_memory
from edge_llava.device.tree import Tree
from edge_llava.errors import ConversionError

if TYPE_CHECKING:
    from edge_llava.converters.checkpoint import Checkpoint

_SYSTEM = Tree()


def find_shortage(checkpoint: Checkpoint, *, tries_int8: bool, tree: Tree = _SYSTEM) -> str | None:
    """A message if a conversion takes more than this process may have; None also where the system does not tell.

    The estimate may be high and the system may swap, so a shortage is only reported. In a container without swap it is
    an error.

    Raises:
        ConversionError: If the limit is a container's and there is no swap: the process would be killed.
    """
    from edge_llava.converters.memory_needs import estimate_memory

    needed = estimate_memory(checkpoint, tries_int8=tries_int8)
    memory = read_memory(tree, {}, read_control_group(tree))
    free = memory.free_bytes
    if free is None or free >= needed:
        return None
    text = f"converting {checkpoint.name} takes about {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free"
    has_swap = re.search(r"^SwapTotal:\s*[1-9]", tree.text("proc/meminfo"), re.MULTILINE) is not None
    if free == memory.group_free_bytes and not has_swap:
        raise ConversionError(
            f"{text} in this container. Give it {(needed - free) / 1e9:.1f} GB more, or convert on another computer "
            "and copy the bundle."
        )
    return (
        f"{text}: it may become slow, or the system may end it. Close other programs, or convert on another computer "
        "and copy the bundle."
    )
