"""Routes llama.cpp's messages to logging, and keeps the last error for our own messages."""

from __future__ import annotations

import logging
from typing import Any

import llama_cpp

_log = logging.getLogger("edge_llava.llama_cpp")
_LOG_LEVELS = {3: logging.WARNING, 4: logging.ERROR}
_errors = ["it gave no reason"]


def _log_message(level: int, text: bytes, _: Any) -> None:
    if message := text.decode("utf-8", errors="replace").strip():
        _log.log(_LOG_LEVELS.get(level, logging.DEBUG), "%s", message)
        if level == 4:
            _errors[:] = [message]


# llama.cpp keeps only the address: a callback that Python collected would crash the process
_forward_log = llama_cpp.llama_log_callback(_log_message)


def route_log() -> None:
    """Sends llama.cpp's messages to logging."""
    llama_cpp.llama_log_set(_forward_log, None)


def last_error() -> str:
    """The last error that llama.cpp reported, for a message."""
    return _errors[0]
