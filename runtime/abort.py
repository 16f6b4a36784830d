"""Stopping llama.cpp in the middle of a graph."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

import llama_cpp


class Abortable:
    """While inside, llama.cpp asks `should_stop` before each operation of a graph.

    Only for prefill, where one graph takes long: asking costs Python's lock each time. Between the tokens of an answer
    the session looks itself.

    Python delivers Ctrl-C wherever it runs code on the main thread, so also inside the question, where ctypes would
    swallow it: at any point, the first instruction included. It is caught there, stops the graph, and is raised anew
    on leaving.
    """

    def __init__(self, context: Any, should_stop: Callable[[], bool]) -> None:
        self._context, self._should_stop = context, should_stop
        self._callback = llama_cpp.ggml_abort_callback(self._ask)
        self._interrupt: BaseException | None = None
        self._previous_hook: Callable[[Any], object] | None = None

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._previous_hook, sys.unraisablehook = sys.unraisablehook, self._catch
        llama_cpp.llama_set_abort_callback(self._context, self._callback, None)

    def __exit__(self, *_: object) -> None:
        llama_cpp.llama_set_abort_callback(self._context, llama_cpp.ggml_abort_callback(0), None)
        if self._previous_hook is not None:
            sys.unraisablehook = self._previous_hook
        if self._interrupt is not None:
            raise self._interrupt

    def _ask(self, _: object) -> bool:
        return self._interrupt is not None or self._should_stop()

    def _catch(self, unraisable: Any) -> None:
        """What ctypes could not raise: an interrupt is kept, anything else goes where it would have gone."""
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            self._interrupt = unraisable.exc_value
        elif self._previous_hook is not None:
            self._previous_hook(unraisable)
