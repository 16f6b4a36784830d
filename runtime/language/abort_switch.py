"""Stopping llama.cpp in the middle of a graph, without asking Python."""

from __future__ import annotations

import ctypes
import os
from typing import Any

import llama_cpp


class AbortSwitch:
    """A switch that llama.cpp looks at before each operation of a graph; another thread sets it.

    The question is C's `strlen`, of a text that is "" or one character long: a function of Python's would have to wait
    for Python's lock hundreds of times in a graph, while other threads serve clients.
    """

    def __init__(self, context: Any) -> None:
        """
        Args:
            context: llama.cpp's context; this must live as long.
        """
        library = ctypes.cdll.msvcrt if os.name == "nt" else ctypes.CDLL(None)
        self._callback = ctypes.cast(library.strlen, llama_cpp.ggml_abort_callback)
        self._text = ctypes.create_string_buffer(2)
        llama_cpp.llama_set_abort_callback(context, self._callback, ctypes.cast(self._text, ctypes.c_void_p))

    def set(self) -> None:
        """Stops what is being computed, and what will be until `clear`."""
        self._text[0] = b"1"

    def clear(self) -> None:
        """Lets llama.cpp compute again."""
        self._text[0] = b"\0"
