"""Native memory that a Python object owns."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any


def freed_with(owner: object, free: Callable[..., object], *handles: Any) -> Callable[[], object]:
    """Frees native memory exactly once: when the result is called, or else when `owner` is dropped.

    Does nothing in a forked child, which lacks the threads of the engines and may inherit their locks as taken, and
    nothing at the end of the process, when the system reclaims all memory. Of several for one owner, the last is the
    first to run.

    Args:
        owner: May not be reachable from `free` or `handles`.
        free: Called with the handles.
        handles: What to free.
    """
    process = os.getpid()

    def free_here() -> None:
        if os.getpid() == process:
            free(*handles)

    finalizer = weakref.finalize(owner, free_here)
    finalizer.atexit = False
    return finalizer
