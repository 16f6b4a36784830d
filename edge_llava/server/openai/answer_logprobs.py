"""Log probabilities of an answer's tokens in OpenAI's form."""

from __future__ import annotations

from typing import Any

from edge_llava.runtime.answer import Token

_LEAST = -9999.0  # OpenAI's value; JSON has no minus infinity


class AnswerLogprobs:
    """Collects the entries of the tokens in an answer's text, without those of the stop text that ended it.

    If a token is held back, because a character is incomplete or it may start a stop text, its entry is held back, too.
    """

    def __init__(self) -> None:
        self._held: list[dict[str, Any]] = []

    def push(self, token: Token) -> list[dict[str, Any]]:
        """Adds a token, and returns the entries that are certain now."""
        if token.logprob is not None and (token.piece or token.finish_reason != "stop"):
            self._held.append(_entry(token))
        if not token.text and token.finish_reason is None:
            return []
        if not token.text and token.finish_reason == "stop":
            self._held.clear()
        certain, self._held = self._held, []
        return certain


def _entry(token: Token) -> dict[str, Any]:
    top = [_describe(other.piece, other.logprob) for other in token.top_logprobs]
    return _describe(token.piece, token.logprob or 0.0) | {"top_logprobs": top}


def _describe(piece: bytes, logprob: float) -> dict[str, Any]:
    shown = logprob if logprob > _LEAST else _LEAST  # also for NaN, which JSON does not have either
    return {"token": piece.decode("utf-8", "replace"), "logprob": shown, "bytes": list(piece)}
