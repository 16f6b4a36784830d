"""What a signal handler raises while C calls Python back."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any


class KeptInterrupt:
    """While inside, what a signal handler raises in a callback from C is kept, and raised on leaving.

    Python runs signal handlers wherever it runs code on the main thread, so also in a callback, where ctypes would
    swallow what they raise (Ctrl-C, SystemExit, a time limit): at any point, the first instruction included. That is
    why it is caught here and not in the callback.
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
        """What Python could not raise: a handler's is kept, anything else goes where it would have gone."""
        is_ours = threading.current_thread() is threading.main_thread() and "ctypes callback" in str(unraisable.err_msg)
        if is_ours and self._is_of_handler(unraisable):
            self._interrupt = unraisable.exc_value
        elif self._previous_hook is not None:
            self._previous_hook(unraisable)

    def _is_of_handler(self, unraisable: Any) -> bool:
        """The callbacks raise nothing themselves, but logging's handlers, which are the program's, may."""
        is_log = "_log_message" in f"{unraisable.err_msg} {unraisable.object!r}"
        return not (is_log and isinstance(unraisable.exc_value, Exception))
