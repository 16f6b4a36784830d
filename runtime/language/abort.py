"""Stopping llama.cpp in the middle of a graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llama_cpp

from edge_llava.runtime.language.kept_interrupt import KeptInterrupt


class Abortable:
    """While inside, llama.cpp asks `should_stop` before each operation of a graph. Ctrl-C stops it, too.

    Only for prefill, where one graph takes long: asking costs Python's lock each time. Between the tokens of an answer
    the session looks itself.
    """

    def __init__(self, context: Any, should_stop: Callable[[], bool]) -> None:
        self._context, self._should_stop = context, should_stop
        self._callback = llama_cpp.ggml_abort_callback(self._ask)
        self._interrupt = KeptInterrupt()

    def __enter__(self) -> None:
        self._interrupt.__enter__()
        llama_cpp.llama_set_abort_callback(self._context, self._callback, None)

    def __exit__(self, *_: object) -> None:
        llama_cpp.llama_set_abort_callback(self._context, llama_cpp.ggml_abort_callback(0), None)
        del self._callback  # it refers to this
        self._interrupt.__exit__()

    def _ask(self, _: object) -> bool:
        return self._interrupt.arrived or self._should_stop()
