"""The threads with which llama.cpp computes, where a process forks."""

from __future__ import annotations

import ctypes
import functools
import os

from edge_llava.errors import BackendError
from edge_llava.ggml.library import bind

_SOFT = 1  # omp_pause_soft: the threads end, settings stay


@functools.cache
def end_threads_before_forks() -> None:
    """From now on, OpenMP's idle threads of a thread that forks end first, and start again with its next computation.

    A child would have their pool without its threads, and its own model would wait for them for ever. Does nothing
    where llama.cpp was built without OpenMP, or a system has no forks.

    Source: omp_pause_resource_all of OpenMP 5.0, section 3.2.44; GNU's OpenMP does not reset the pool of a child.
    """
    if not hasattr(os, "register_at_fork"):
        return
    try:
        pause = bind("omp_pause_resource_all", ctypes.c_int, [ctypes.c_int])
    except BackendError:
        return
    os.register_at_fork(before=lambda: pause(_SOFT))
