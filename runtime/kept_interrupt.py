"""Ctrl-C that comes while C calls Python back."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any


class KeptInterrupt:
    """While inside, a Ctrl-C in a callback from C is kept, and raised on leaving.

    Python delivers Ctrl-C wherever it runs code on the main thread, so also in a callback, where ctypes would swallow
    it: at any point, the first instruction included. That is why it is caught here and not in the callback.
    """

    def __init__(self) -> None:
        self._interrupt: BaseException | None = None
        self._previous_hook: Callable[[Any], object] | None = None

    @property
    def arrived(self) -> bool:
        """Whether there was one."""
        return self._interrupt is not None

    def __enter__(self) -> KeptInterrupt:
        if threading.current_thread() is threading.main_thread():
            self._previous_hook, sys.unraisablehook = sys.unraisablehook, self._catch
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous_hook is not None:
            sys.unraisablehook = self._previous_hook
        if self._interrupt is not None:
            raise self._interrupt

    def _catch(self, unraisable: Any) -> None:
        """What ctypes could not raise: an interrupt is kept, anything else goes where it would have gone."""
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            self._interrupt = unraisable.exc_value
        elif self._previous_hook is not None:
            self._previous_hook(unraisable)
