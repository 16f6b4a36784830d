"""From sampled token ids to what is shown of an answer, and when it is complete."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edge_llava.runtime.answer import FinishReason, Token, TokenLogprob
from edge_llava.runtime.dialogue.answer_history import KnownAnswer
from edge_llava.runtime.dialogue.answer_text import AnswerText
from edge_llava.runtime.language.language_model import LanguageModel
from edge_llava.runtime.language.sampler import TokenRanking


class AnswerTokens:
    """One answer as it is sampled.

    Attributes:
        ids: The tokens of the answer; the one that ended the sequence is not among them.
    """

    def __init__(self, language: LanguageModel, stop: Sequence[str], n_max: int, *, keeps_space: bool = False) -> None:
        """Ends after `n_max` tokens, or at one of the texts in `stop`, the template's own among them."""
        self.ids: list[int] = []
        self._language, self._n_max = language, n_max
        self._text = AnswerText(stop, keeps_space=keeps_space)

    def take(self, id: int, *, is_full: bool, ranking: TokenRanking | None = None) -> Token:
        """Adds a sampled token, with its `ranking` where that was asked for; the last one if the context `is_full`."""
        token = self._take(id, is_full)
        if ranking is None:
            return token
        piece = self._language.piece
        top = tuple(TokenLogprob(other, piece(other, special=True), logprob) for other, logprob in ranking.top)
        return replace(token, piece=piece(id), logprob=ranking.logprob, top_logprobs=top)

    def _take(self, id: int, is_full: bool) -> Token:
        if self._language.is_end(id):
            return Token(id, self._text.finish(), "stop")
        self.ids.append(id)
        shown = self._text.push(self._language.piece(id))
        if self._text.stopped:
            return Token(id, shown, "stop")
        if len(self.ids) >= self._n_max or is_full:
            return Token(id, shown + self._text.finish(), "length")
        return Token(id, shown)

    def end(self, reason: FinishReason) -> Token:
        """The last token of an answer that ends before another is sampled."""
        return Token(None, self._text.finish(), reason)

    @property
    def text(self) -> str:
        """What was shown of the answer so far."""
        return self._text.shown

    def known(self, start: tuple[int, ...] = ()) -> KnownAnswer:
        """The answer as it goes into the conversation, behind the tokens that were given as its beginning."""
        n_whole, carry = self._text.split()
        return KnownAnswer((*start, *self.ids[:n_whole]), carry)
