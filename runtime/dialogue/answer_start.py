"""What an answer begins with where a client gave its beginning: the model continues it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AnswerStart:
    """The beginning of an answer.

    Attributes:
        text: As the client gave it; "" without one.
        ids: Its tokens. Spaces at its end are not among them: they belong to the token of the next word.
        keeps_space: Whether white space that the continuation begins with is part of the answer: not at the beginning
            of an answer, nor where the given text ends with a space already.
    """

    text: str = ""
    ids: tuple[int, ...] = ()
    keeps_space: bool = False


NO_START = AnswerStart()
