"""Routes llama.cpp's messages to logging, and keeps errors for our own messages."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import llama_cpp

_log = logging.getLogger("edge_llava.llama_cpp")
_LOG_LEVELS = {3: logging.WARNING, 4: logging.ERROR}
_NO_REASON = "it gave no reason"
_MAX_ERRORS = 32
_STDERR = 2
_BACKEND = b"ggml_"  # begins every line that a backend writes
_errors: list[str] = []
_listeners: list[list[str]] = []


def _log_message(level: int, text: bytes, _: Any) -> None:
    if message := text.decode("utf-8", errors="replace").strip():
        _log.log(_LOG_LEVELS.get(level, logging.DEBUG), "%s", message)
        for heard in _listeners:
            heard.append(message)
        if level == 4:
            _errors[:] = [*_errors[: _MAX_ERRORS - 1], message]


# llama.cpp keeps only the address: a callback that Python collected would crash the process
_forward_log = llama_cpp.llama_log_callback(_log_message)


def route_log() -> None:
    """Sends llama.cpp's messages to logging, and forgets its errors so far."""
    _errors.clear()
    llama_cpp.llama_log_set(_forward_log, None)


@contextmanager
def heard_messages() -> Iterator[list[str]]:
    """Everything that llama.cpp says meanwhile, of all models of this process."""
    heard = list[str]()
    _listeners.append(heard)
    try:
        yield heard
    finally:
        _listeners[:] = [listener for listener in _listeners if listener is not heard]


def last_error() -> str:
    """The last error that llama.cpp reported, for a message."""
    return _errors[-1] if _errors else _NO_REASON


def first_error() -> str:
    """The first error since `route_log`: of a failed load it names the cause, and the last one only that it failed."""
    return _errors[0] if _errors else _NO_REASON


@contextmanager
def stderr_as_errors() -> Iterator[None]:
    """Takes lines that a backend of llama.cpp writes to stderr as its errors; all others are written there at the end.

    Vulkan's does so with allocations that fail, apart from the log. While the log is for debugging, nothing is held
    back: of a process that ends inside, the lines would be lost.
    """
    if _log.isEnabledFor(logging.DEBUG) or sys.stderr is None:
        yield
        return
    with tempfile.TemporaryFile() as held:
        sys.stderr.flush()
        own = os.dup(_STDERR)
        os.dup2(held.fileno(), _STDERR)
        try:
            yield
        finally:
            os.dup2(own, _STDERR)
            os.close(own)
            held.seek(0)
            for line in held:
                if line.startswith(_BACKEND):
                    _log_message(4, line, None)
                else:
                    os.write(_STDERR, line)
