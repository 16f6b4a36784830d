"""What an answer is read as: one token after another, with the text that became certain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True)
class TokenLogprob:
    """A token that could have come next.

    Attributes:
        id: The token's id.
        piece: The bytes that it stands for; the name of a control token.
        logprob: The natural logarithm of its probability, before penalties, temperature and grammar.
    """

    id: int
    piece: bytes
    logprob: float


@dataclass(frozen=True)
class Token:
    """One step of an answer.

    Attributes:
        id: The token's id; None only when the answer ended before another token came: cancelled, or failed.
        text: Text that became certain with it: "" while a character or a possible stop text is incomplete.
        finish_reason: None until the last one: "stop" (end of sequence or a stop text), "length", "cancelled", and
            "error" in a `BatchEngine`, where `Answer.error` says which; a `Session` raises errors.
        piece: The bytes that the token stands for, where `SamplingOptions.logprobs` asks for probabilities; empty for
            a control token.
        logprob: As `TokenLogprob.logprob`, of this token; None where it was not asked for.
        top_logprobs: The likeliest tokens at this place, the likeliest first; as many as were asked for.
    """

    id: int | None
    text: str
    finish_reason: FinishReason | None = None
    piece: bytes = b""
    logprob: float | None = None
    top_logprobs: tuple[TokenLogprob, ...] = ()
