"""What every teacher does: it replies about a picture, in one of three manners."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from edge_llava.training.instructions.annotation import AnnotatedPicture
from edge_llava.training.instructions.reply import Rejection

NO_REPLY = "no reply"  # reason of a rejection


@dataclass(frozen=True)
class Reply:
    """What a teacher said.

    Attributes:
        text: Its words, or what came in their place; "" if nothing came.
        fault: Why it is useless whatever its words are; None for a whole reply.
        prompt_tokens, completion_tokens: What it cost, 0 where nobody counts.
    """

    text: str
    fault: Rejection | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Teacher(Protocol):
    """Knows, or can be told, what is in a picture. Used by several threads at once."""

    @property
    def name(self) -> str:
        """Tells this teacher from others, without any secret; the journal of a run keeps it."""

    def reply(self, picture: AnnotatedPicture, response_type: str) -> Reply:
        """Replies about one picture in the form that `reply.parse_reply` reads.

        Args:
            picture: What the reply is about.
            response_type: "conversation", "detail" or "reasoning".

        Raises:
            DataError: If this teacher will reply about no picture at all.
        """
