"""An answer as an iterator that may be left, dropped, or open when the process ends."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Generator, Iterator

from edge_llava.runtime.answer import Token
from edge_llava.runtime.lifetime.gate import Gate


class AnswerReader(Iterator[Token]):
    """The tokens of one answer, which is computed while this is read.

    While it computes, its thread is inside the model, so that the engines stay. Between two tokens it is not: the model
    can be closed, and the answer ends as cancelled.
    """

    def __init__(self, gate: Gate, tokens: Generator[Token, None, None]) -> None:
        """
        Args:
            gate: Of the model.
            tokens: Computes; cancelled where the gate was closed.
        """
        self._gate, self._tokens = gate, tokens
        # also at the end of the process, while Python can still do what the answer's own end needs
        self._finalizer = weakref.finalize(self, _close_idle, gate, tokens)

    def __next__(self) -> Token:
        self._gate.check_process()
        with self._gate.visiting():
            return next(self._tokens)

    def close(self) -> None:
        """Ends the answer here; safe to call twice. In a forked child it does nothing."""
        if self._gate.is_elsewhere:
            return
        with self._gate.visiting():
            self._tokens.close()
        self._finalizer.detach()


def _close_idle(gate: Gate, tokens: Generator[Token, None, None]) -> None:
    with gate.visiting():
        if inspect.getgeneratorstate(tokens) != inspect.GEN_RUNNING:  # by a daemon thread, when the process ends
            tokens.close()
