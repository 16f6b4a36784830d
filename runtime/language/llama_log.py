"""Routes llama.cpp's messages to logging, and keeps the last errors for our own messages."""

from __future__ import annotations

import logging
from typing import Any

import llama_cpp

_log = logging.getLogger("edge_llava.llama_cpp")
_LOG_LEVELS = {1: logging.DEBUG, 2: logging.DEBUG, 3: logging.WARNING, 4: logging.ERROR}
_last_errors: list[str] = []


def _log_message(level: int, text: bytes, _: Any) -> None:
    message = text.decode("utf-8", errors="replace").strip()
    if message:
        _log.log(_LOG_LEVELS.get(level, logging.DEBUG), "%s", message)
    if level == 4 and message:
        _last_errors[:] = [*_last_errors[-3:], message]


# llama.cpp keeps only the address: a callback that Python collected would crash the process
_forward_log = llama_cpp.llama_log_callback(_log_message)


def route_log() -> None:
    """Sends llama.cpp's messages to logging."""
    llama_cpp.llama_log_set(_forward_log, None)


def last_error() -> str:
    """The last error that llama.cpp reported, for a message."""
    return _last_errors[-1] if _last_errors else "it gave no reason"
