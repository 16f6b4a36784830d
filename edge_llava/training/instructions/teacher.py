"""The interface of every teacher: it replies about an image, in one of three styles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from edge_llava.training.instructions.annotation import AnnotatedImage
from edge_llava.training.instructions.reply import Rejection


@dataclass(frozen=True)
class TeacherReply:
    """A teacher's reply.

    Attributes:
        text: Its text, or what was received instead; "" if nothing was.
        fault: Why it cannot be used, whatever its text; None for a complete reply.
        prompt_tokens, completion_tokens: What it cost; 0 if it was not counted.
    """

    text: str
    fault: Rejection | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Teacher(Protocol):
    """Knows, or reads, what is in an image. Used by several threads at once."""

    @property
    def name(self) -> str:
        """Identifies this teacher, without any secret; the journal of a run keeps it."""

    def reply(self, image: AnnotatedImage, response_type: str) -> TeacherReply:
        """Replies about one image, in the form that `reply.parse_reply` reads.

        Args:
            image: The image to reply about.
            response_type: "conversation", "detail" or "reasoning".

        Raises:
            DataError: If this teacher cannot reply about any image.
        """
