"""How many CPU threads to use when nobody says."""

from __future__ import annotations

import os
from pathlib import Path

_TOPOLOGY = Path("/sys/devices/system/cpu")


def count_cores() -> int:
    """Physical cores that this process may use; logical ones where the system does not tell them apart.

    Two threads on one core share its vector units, so matrix work gains nothing from the second.
    """
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    usable = os.sched_getaffinity(0)
    try:
        siblings = {(_TOPOLOGY / f"cpu{cpu}/topology/thread_siblings_list").read_text() for cpu in usable}
    except OSError:
        return len(usable)
    return max(1, len(siblings))
