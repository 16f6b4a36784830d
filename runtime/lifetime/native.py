"""Native memory that a Python object owns."""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

_Owner = TypeVar("_Owner")
_Result = TypeVar("_Result")


def freed_with(owner: object, free: Callable[..., object], *handles: Any) -> Callable[[], object]:
    """Frees native memory exactly once: when the result is called, or else when `owner` is dropped.

    Does nothing in a forked child, which lacks the threads of the engines and may inherit their locks as taken, and
    nothing at the end of the process, when the system reclaims all memory. Of several for one owner, the last is the
    first to run. The owner may not be reachable from `free` or `handles`.
    """
    process = os.getpid()

    def free_here() -> None:
        if os.getpid() == process:
            free(*handles)

    finalizer = weakref.finalize(owner, free_here)
    finalizer.atexit = False
    return finalizer


def kept_in_children(owner: _Owner) -> _Owner:
    """The object, which forked children never destroy: for engines that free themselves and wait for their threads.

    ONNX Runtime's thread pool waits for threads that a child does not have: the child would hang when it drops the
    session, at the latest when it ends.
    """
    _kept_in_children.add(owner)
    return owner


def _keep_all() -> None:
    for owner in list(_kept_in_children):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(owner))  # a list of them would be cleared when the child ends


_kept_in_children = weakref.WeakSet[Any]()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_all)


def weak_call(method: Callable[..., _Result]) -> Callable[..., _Result | None]:
    """Calls a bound method as long as its object lives, without keeping it alive."""
    reference = weakref.WeakMethod(method)

    def call(*arguments: Any) -> _Result | None:
        bound = reference()
        return None if bound is None else bound(*arguments)

    return call
