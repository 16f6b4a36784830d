"""Work in C that calls Python back, done on another thread than the caller's."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import wait
from typing import TypeVar

from edge_llava.runtime.lifetime.work_thread import WorkThread

_Result = TypeVar("_Result")


def run_aside(work: Callable[[], _Result]) -> _Result:
    """Runs a function on a thread of its own and returns its result.

    Python runs signal handlers on the main thread only. One that raised inside a callback from C (llama.cpp's log)
    would be swallowed there; on this thread, which waits in Python, it is raised as soon as the work is done.
    """
    thread = WorkThread("edge-llava-load")
    future = thread.submit(work)
    thread.close(wait=False)
    try:
        return future.result()
    finally:
        wait([future])  # what it made is dropped here, and not while it is being made
