"""An answer of a session, read token by token."""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Generator, Iterator

from edge_llava.runtime.answer import Token
from edge_llava.runtime.lifetime.work_thread import THREAD_PREFIX
from edge_llava.runtime.turn import Turn


class AnswerReader(Iterator[Token]):
    """The tokens of one answer, for `for`. Made by `Session.ask()`.

    It may be left, dropped, or open when the process ends: the answer is cancelled then. Between two tokens the model
    can be closed, and the answer ends as cancelled.
    """

    def __init__(self, tokens: Generator[Token, None, None], turn: Turn) -> None:
        self._tokens, self._turn = tokens, turn
        # also at the end of the process, while Python can still do what the answer's own end needs
        self._finalizer = weakref.finalize(self, _drop, tokens, turn)

    def __next__(self) -> Token:
        self._turn.gate.check_process()
        return next(self._tokens)

    def close(self) -> None:
        """Ends the answer here; safe to call twice. In a forked child it does nothing."""
        if self._turn.gate.is_elsewhere:
            return
        self._tokens.close()
        self._turn.leave()  # where a signal handler ended `tokens` before it could
        self._finalizer.detach()


def _drop(tokens: Generator[Token, None, None], turn: Turn) -> None:
    if turn.gate.is_elsewhere:
        return
    turn.is_dropped = threading.current_thread().name.startswith(THREAD_PREFIX)
    if inspect.getgeneratorstate(tokens) != inspect.GEN_RUNNING:  # by a daemon thread, when the process ends
        tokens.close()
        if not turn.is_left:
            turn.leave()
