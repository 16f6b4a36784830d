"""What an answer is read as: one token after another, with the text that became certain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True)
class Token:
    """One step of an answer.

    Attributes:
        id: The token's id; None only when the answer ended before another token came: cancelled, or failed.
        text: Text that became certain with it: "" while a character or a possible stop text is incomplete.
        finish_reason: None until the last one: "stop" (end of sequence or a stop text), "length", "cancelled", and
            "error" in a `BatchEngine`, where `Answer.error` says which; a `Session` raises errors.
    """

    id: int | None
    text: str
    finish_reason: FinishReason | None = None
