"""A budget of steps for programs of unknown origin that run in this process, such as chat templates."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class OutOfSteps(Exception):
    """A program ran more lines than it may."""


class _Stop(BaseException):
    """Nothing between the program and `step_budget` catches it."""


@contextmanager
def step_budget(n_lines: int) -> Iterator[None]:
    """While inside, what is called may run so many lines of Python; a debugger's trace is put aside.

    It counts lines, not time, so that it decides the same everywhere. One call of a function in C counts as nothing.

    Raises:
        OutOfSteps: If it runs more.
    """
    left = n_lines

    def count(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise _Stop
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        yield
    except _Stop as stop:
        raise OutOfSteps(f"it runs more than {n_lines} steps") from stop
    finally:
        sys.settrace(before)
