"""Logs errors of the event loop itself in one line each, without repeating them."""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from typing import Any

_log = logging.getLogger("edge_llava.server")
_QUIET_S = 60.0
_N_KINDS = 64
_NO_HANDLES = (errno.EMFILE, errno.ENFILE)


class LoopErrors:
    """An event loop's exception handler that logs each kind of error at most once a minute, its traceback at DEBUG.

    asyncio's own handler writes a traceback for each connection without a file handle, some thousand a second.
    """

    def __init__(self) -> None:
        self._last: dict[str, float] = {}

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Logs an error."""
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in _NO_HANDLES:
            line = "no file handle is left for new connections; raise the limit (ulimit -n)"
        else:
            line = context["message"].partition("(")[0]  # arguments of a callback may contain client data
            line += "" if error is None else f": {type(error).__name__}"
        if self._is_new(line):
            _log.error("%s", line)
            _log.debug("in the event loop", exc_info=error)

    def _is_new(self, kind: str) -> bool:
        now = time.monotonic()
        if now - self._last.get(kind, -_QUIET_S) < _QUIET_S:
            return False
        if len(self._last) >= _N_KINDS:
            self._last.clear()
        self._last[kind] = now
        return True
