"""One question of a session on its way to its answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from edge_llava.runtime.answer import FinishReason, Token
from edge_llava.runtime.dialogue.answer_history import KnownAnswer
from edge_llava.runtime.dialogue.past_turns import PastTurn
from edge_llava.runtime.engine.answer import Answer
from edge_llava.runtime.lifetime.gate import Gate


@dataclass(eq=False)
class Turn:
    """What was planned for a question, and what was read of its answer.

    Attributes:
        turns: The turns before it, without those that are dropped for it, and the question.
        asked_at: When it was asked, of `time.perf_counter`.
        gate: Of the model.
        on_over: Called once its answer is not read any more, and over.
        answer: None before it is computed.
        is_cancelled: Whether the reader gets no more of it, though it may be computed further.
        is_left: Whether it is not read any more.
        is_dropped: Whether its reader was dropped on one of the model's own threads, which must not wait for it.
        ids: Tokens that were read.
        finish_reason: Of the token that was read last.
    """

    turns: Sequence[PastTurn]
    asked_at: float
    gate: Gate
    on_over: Callable[[Turn], None]
    answer: Answer | None = None
    is_cancelled: bool = False
    is_left: bool = False
    is_dropped: bool = False
    ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    def read(self, token: Token) -> Token:
        """What the reader is given in place of a token: the same, unless the answer was cancelled since it came."""
        if (self.is_cancelled or self.gate.closed) and token.finish_reason != "error":
            token = Token(None, "", "cancelled")
        self.finish_reason = token.finish_reason
        if token.id is not None:
            self.ids.append(token.id)
        if self.answer is not None:
            self.answer.note_read()
        return token

    def cancel(self) -> None:
        """Ends it, from any thread."""
        self.is_cancelled = True
        if self.answer is not None:
            self.answer.cancel()

    def leave(self) -> None:
        """Nothing more of it is read: what is still computed stops. Safe to call twice, from any thread."""
        if self.answer is None:
            return
        self.answer.cancel()
        if not self.is_left:
            self.is_left = True
            self.answer.when_over(lambda: self.on_over(self))

    def raise_error(self) -> None:
        """Raises why the answer failed, if it did."""
        if self.answer is not None and self.answer.error is not None:
            raise self.answer.error

    def conclude(self) -> list[PastTurn] | None:
        """The conversation with what was read of the answer; None if nothing was."""
        if self.answer is None or not self.ids:
            return None
        *past, asked = self.turns
        answer: KnownAnswer | None = KnownAnswer(tuple(self.ids))
        if self.finish_reason in ("stop", "length"):
            answer = self.answer.tokens.known() if self.answer.tokens.ids else None
        return [*past, replace(asked, answer=answer)]
