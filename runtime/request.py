"""What the engine is asked for: a conversation, and how its answer is sampled."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from edge_llava.runtime.dialogue.answer_tokens import AnswerTokens
from edge_llava.runtime.options import SamplingOptions
from edge_llava.runtime.runs import Run


@dataclass(frozen=True)
class AnswerStart:
    """What an answer begins with where a client gave its beginning: the model continues it.

    Attributes:
        ids: Its tokens. Spaces at its end are not among them: they belong to the token of the next word.
        keeps_space: Whether white space that the continuation begins with is part of the answer: not at the beginning
            of an answer, nor where the given text ends with a space already.
    """

    ids: tuple[int, ...] = ()
    keeps_space: bool = False


@dataclass(frozen=True, eq=False)
class Request:
    """One answer to be computed.

    Attributes:
        runs: The conversation up to the answer.
        options: How the answer is sampled.
        stops: Texts that end it.
        start: What it begins with; the model continues that.
        salt: Only conversations of the same salt share what was computed, text and images.
        n_shareable: Positions at its beginning that other conversations may have computed; None: all that are the same.
        owner: As `KvSequence.owner`.
        to_disk: The beginning of `runs`, up to and including an image, that is kept on disk; empty for none.
        n_dropped: Earlier questions that were dropped because the context was full.
        is_preparation: Whether nothing is answered: `runs` are computed for a question that continues them. Answers
            come first, and take its place where there is no other.
        credit: Tokens that are computed ahead of the reader, see `Answer.note_read`; None: all.
        on_end: Called on the engine's thread once the last token was handed over.
        asked_at: When it was asked, of `time.perf_counter`.
    """

    runs: Sequence[Run]
    options: SamplingOptions
    stops: tuple[str, ...]
    start: AnswerStart = AnswerStart()
    salt: str = ""
    n_shareable: int | None = None
    owner: int | None = None
    to_disk: Sequence[Run] = ()
    n_dropped: int = 0
    is_preparation: bool = False
    credit: int | None = None
    on_end: Callable[[AnswerTokens], object] = lambda tokens: None
    asked_at: float = field(default_factory=time.perf_counter)
