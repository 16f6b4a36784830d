"""Says before a bundle is loaded that it may not fit in memory. It is loaded all the same: weights are mapped, and the
system may page them, slowly, or end the process without a word.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edge_llava.cli.display import note

if TYPE_CHECKING:
    from edge_llava.bundle.bundle import Bundle
    from edge_llava.runtime.options import EngineOptions

_SIZES = (4096, 2048, 1024, 512)


def note_shortage(
    bundle: Bundle, options: EngineOptions, n_positions: int, setting: str = "-c {0}", root: Path = Path("/")
) -> None:
    """Notes that a bundle takes more than this process may, where the system tells how much that is.

    Args:
        bundle: To be loaded.
        options: How. With blocks on a GPU, main memory says little, and nothing is noted.
        n_positions: Of the KV cache.
        setting: What sets them.
        root: "/", or a copy of the system's /proc and /sys.
    """
    from edge_llava.device.control_group import read_control_group
    from edge_llava.device.main_memory import read_memory
    from edge_llava.device.tree import Tree
    from edge_llava.ggml.library import may_see_gpus

    if sys.platform != "linux" or (options.decoder.may_offload and may_see_gpus()):
        return
    tree = Tree(root)
    free_bytes = read_memory(tree, {}, read_control_group(tree)).free_bytes
    if free_bytes is not None and (text := describe_shortage(bundle, n_positions, free_bytes, setting)):
        note(f"edge-llava: {text}")


def describe_shortage(bundle: Bundle, n_positions: int, free_bytes: int, setting: str = "-c {0}") -> str:
    """One line with what a bundle takes and what would fit; "" if it fits."""
    from edge_llava.doctor.bundle_findings import needed_bytes

    needed = needed_bytes(bundle, n_positions)
    if needed <= free_bytes:
        return ""
    fitting = next((n for n in _SIZES if n < n_positions and needed_bytes(bundle, n) <= free_bytes), None)
    advice = (
        f"{setting.format(fitting)} fits ({needed_bytes(bundle, fitting) / 1e9:.1f} GB)"
        if fitting
        else "close other programs, give --low-memory, or convert with fewer bits"
    )
    numbers = f"about {needed / 1e9:.1f} GB with {n_positions} positions, and {free_bytes / 1e9:.1f} GB are free"
    return f"{bundle.name} takes {numbers}: {advice}."
