"""The memory of this process, and errors that mean there is no more."""

from __future__ import annotations

import ctypes
import errno
import gc
import sys

if sys.platform == "win32":
    from ctypes import wintypes

    class _Counters(ctypes.Structure):
        _fields_ = (
            ("cb", wintypes.DWORD),
            ("PageFaultCount", wintypes.DWORD),
            ("PeakWorkingSetSize", ctypes.c_size_t),
            ("rest", ctypes.c_size_t * 7),
        )

    def peak_rss_bytes() -> int:
        """Largest resident size of this process so far, in bytes."""
        counters = _Counters(cb=ctypes.sizeof(_Counters))
        ctypes.windll.kernel32.GetCurrentProcess.restype = wintypes.HANDLE
        ctypes.windll.psapi.GetProcessMemoryInfo.argtypes = [wintypes.HANDLE, ctypes.c_void_p, wintypes.DWORD]
        process = ctypes.windll.kernel32.GetCurrentProcess()
        ctypes.windll.psapi.GetProcessMemoryInfo(process, ctypes.byref(counters), counters.cb)
        return int(counters.PeakWorkingSetSize)

else:
    import re
    import resource
    from pathlib import Path

    def peak_rss_bytes() -> int:
        """Largest resident size of this process so far, in bytes."""
        if sys.platform == "darwin":
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        # On Linux getrusage begins with what the parent had when it started this process; the high-water mark does not.
        try:
            mark = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
        except OSError:
            mark = None
        return 1024 * (int(mark[1]) if mark else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def return_freed_memory() -> None:
    """Gives freed memory back to the system where the C library keeps it (glibc)."""
    gc.collect()
    trim_heap()


def trim_heap() -> None:
    """As `return_freed_memory`, without looking for unused objects: fast enough between the parts of a model.

    glibc reuses little of the aligned memory that torch frees: without this, a tower written weight by weight may
    take as much as the whole tower.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


# How loaders of libraries, torch, safetensors and Python's threads word it; their errors have no type of their own.
_WORDS = (
    "failed to map segment", "annot allocate memory", "an't allocate memory", "out of memory", "not enough memory",
    "can't start new thread", "bad_alloc",
)  # fmt: skip
_MAX_WORDS = 300  # characters of a message that are looked at


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or one that it came from, says that the system had no more memory to give."""
    seen = set[int]()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno == errno.ENOMEM):
            return True
        if any(word in str(cause)[:_MAX_WORDS] for word in _WORDS):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
