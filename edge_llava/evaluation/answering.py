"""Taking an exam: shows the pictures, asks the questions, keeps every reply."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge_llava.evaluation.exam import DESCRIPTION, Sheet
from edge_llava.home.progress import ProgressCallback, ProgressEvent, silent
from edge_llava.scenes.questions import Question, normalize_answer
from edge_llava.scenes.scene import Scene
from edge_llava.scenes.sentences import mentioned_objects

Ask = Callable[[str, int], str]
"""A question, the most tokens of an answer -> the answer. Nothing asked before matters."""
Look = Callable[[Scene], Ask]
"""Shows one picture to whoever answers; what is asked until the next picture is shown is about this one."""

_MAX_ANSWER_TOKENS = 32  # "The small purple triangle.", even where every letter is a token
_MAX_DESCRIPTION_TOKENS = 320


@dataclass(frozen=True)
class Reply:
    """One question and what was said.

    Attributes:
        sheet: The sheet that the question stands on.
        shown: Index of the picture that was shown: sheet.picture, or another one as a check.
        question: The question, with the right answer for sheet.scene.
        text: What was answered.
    """

    sheet: Sheet
    shown: int
    question: Question
    text: str

    @property
    def is_check(self) -> bool:
        """Whether another picture was shown than the one the question is about."""
        return self.shown != self.sheet.picture

    @property
    def is_right(self) -> bool:
        """Exact match; for a description: it mentions every object, and no other."""
        if self.question.kind == DESCRIPTION:
            return mentioned_objects(self.text) == mentioned_objects(self.question.answer)
        return normalize_answer(self.text) == normalize_answer(self.question.answer)


def take_exam(
    sheets: Sequence[Sheet], exchanged: Sequence[int], look: Look, progress: ProgressCallback = silent
) -> list[Reply]:
    """Asks everything.

    Args:
        sheets: The exam.
        exchanged: For each picture the sheet that it gets as a check; empty for no check.
        look: Who answers.
        progress: Told the pictures done.

    Returns:
        The replies, picture by picture.
    """
    replies: list[Reply] = []
    for sheet in sheets:
        ask = look(sheet.scene)
        # all that is asked about a picture comes together: it is encoded once and stays in the KV cache
        replies += [_put(ask, sheet, sheet, question) for question in (*sheet.questions, sheet.description)]
        if exchanged:
            other = sheets[exchanged[sheet.picture]]
            replies += [_put(ask, other, sheet, question) for question in other.questions]
        progress(ProgressEvent("asking about pictures", sheet.picture + 1, len(sheets), "items"))
    return replies


def _put(ask: Ask, sheet: Sheet, shown: Sheet, question: Question) -> Reply:
    max_tokens = _MAX_DESCRIPTION_TOKENS if question.kind == DESCRIPTION else _MAX_ANSWER_TOKENS
    return Reply(sheet, shown.picture, question, ask(question.text, max_tokens))
