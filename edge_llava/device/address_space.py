"""The limit that a shell, a job system or a container may have put on a process's address space (`ulimit -v`)."""

from __future__ import annotations

import re
import sys
from pathlib import Path


def free_address_bytes() -> int | None:
    """What this process may still map, in bytes; None where it is not limited, or the system does not tell."""
    if sys.platform != "linux":
        return None
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        used = re.search(r"^VmSize:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return None
    return max(0, limit - 1024 * int(used[1])) if used else None
