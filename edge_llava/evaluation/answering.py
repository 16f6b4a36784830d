"""Takes an exam: shows the pictures, asks the questions, and collects every reply."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge_llava.evaluation.exam import DESCRIPTION, Sheet
from edge_llava.home.progress import ProgressCallback, ProgressEvent, silent
from edge_llava.scenes.questions import Question, normalize_answer
from edge_llava.scenes.scene import Scene
from edge_llava.scenes.sentences import mentioned_objects

Ask = Callable[[str, int], str]
"""Takes a question and the token limit, and returns the answer. Earlier questions have no influence."""
Look = Callable[[Scene], Ask]
"""Shows the picture of a scene, and returns the function that answers questions about it."""

_MAX_ANSWER_TOKENS = 32  # enough for "The small purple triangle." with one token per letter
_MAX_DESCRIPTION_TOKENS = 320


@dataclass(frozen=True)
class ExamReply:
    """One question and the model's answer.

    Attributes:
        sheet: The sheet that contains the question.
        shown: Index of the picture that was shown: sheet.picture, or another one in a check.
        question: The question, with the right answer for sheet.scene.
        text: The answer.
    """

    sheet: Sheet
    shown: int
    question: Question
    text: str

    @property
    def is_check(self) -> bool:
        """Whether the picture shown is not the one that the question is about."""
        return self.shown != self.sheet.picture

    @property
    def is_right(self) -> bool:
        """Whether the answer matches exactly; a description must mention every object and no other."""
        if self.question.kind == DESCRIPTION:
            return mentioned_objects(self.text) == mentioned_objects(self.question.answer)
        return normalize_answer(self.text) == normalize_answer(self.question.answer)


def take_exam(
    sheets: Sequence[Sheet], exchanged: Sequence[int], look: Look, progress: ProgressCallback = silent
) -> list[ExamReply]:
    """Asks all questions.

    Args:
        sheets: The exam.
        exchanged: For each picture, the index of the sheet that is asked about it as a check; empty for no check.
        look: Shows a picture to the answerer.
        progress: Called with the number of pictures done.

    Returns:
        The replies, in the order of the pictures.
    """
    replies: list[ExamReply] = []
    for sheet in sheets:
        ask = look(sheet.scene)
        # all questions about a picture come together, so that it is encoded once and stays in the KV cache
        replies += [_put(ask, sheet, sheet, question) for question in (*sheet.questions, sheet.description)]
        if exchanged:
            other = sheets[exchanged[sheet.picture]]
            replies += [_put(ask, other, sheet, question) for question in other.questions]
        progress(ProgressEvent("asking about pictures", sheet.picture + 1, len(sheets), "items"))
    return replies


def _put(ask: Ask, sheet: Sheet, shown: Sheet, question: Question) -> ExamReply:
    max_tokens = _MAX_DESCRIPTION_TOKENS if question.kind == DESCRIPTION else _MAX_ANSWER_TOKENS
    return ExamReply(sheet, shown.picture, question, ask(question.text, max_tokens))
