"""Statistics of a file of conversations."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from edge_llava.training.instructions.conversations import RESPONSE_TYPES, Conversation

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Distribution:
    """Minimum, median, mean and maximum of some numbers."""

    min: int
    median: float
    mean: float
    max: int


@dataclass(frozen=True)
class Statistics:
    """Counts of a file of conversations.

    Attributes:
        n_records, n_turns: Records, and questions in all of them.
        n_pictures: Different images.
        n_without_picture: Records without an image.
        turns: Per record.
        question_words, answer_words: Words, separated by blanks, per question and per answer.
        types: Records by response type, "unknown" if neither the field `type` nor the end of the id names one.
        n_repeated_records: Records with the image and turns of an earlier one.
        n_repeated_questions: Questions that any earlier record asked about the same image.
    """

    n_records: int
    n_turns: int
    n_pictures: int
    n_without_picture: int
    turns: Distribution
    question_words: Distribution
    answer_words: Distribution
    types: dict[str, int]
    n_repeated_records: int
    n_repeated_questions: int


def summarize(conversations: Sequence[Conversation]) -> Statistics:
    """Counts conversations, words and repetitions.

    Args:
        conversations: At least one.
    """
    turns = [turn for conversation in conversations for turn in conversation.turns]
    images = [conversation.image for conversation in conversations if conversation.image is not None]
    questions = {(c.image or c.id, turn.question) for c in conversations for turn in c.turns}
    types = Counter(find_type(conversation) for conversation in conversations)
    return Statistics(
        n_records=len(conversations),
        n_turns=len(turns),
        n_pictures=len(set(images)),
        n_without_picture=len(conversations) - len(images),
        turns=_distribution([len(conversation.turns) for conversation in conversations]),
        question_words=_distribution([len(turn.question.split()) for turn in turns]),
        answer_words=_distribution([len(turn.answer.split()) for turn in turns]),
        types={name: types[name] for name in sorted(types, key=_rank)},
        n_repeated_records=len(conversations) - len({(c.image, c.turns) for c in conversations}),
        n_repeated_questions=len(turns) - len(questions),
    )


def find_type(conversation: Conversation) -> str:
    """Returns a conversation's response type: its own, else the end of its id ("33471-detail"), else "unknown"."""
    if conversation.type is not None:
        return conversation.type
    return next((name for name in RESPONSE_TYPES if conversation.id.endswith((f"-{name}", f"_{name}"))), UNKNOWN)


def _rank(name: str) -> tuple[int, str]:
    return (RESPONSE_TYPES.index(name) if name in RESPONSE_TYPES else len(RESPONSE_TYPES), name)


def _distribution(numbers: list[int]) -> Distribution:
    return Distribution(min(numbers), float(statistics.median(numbers)), statistics.fmean(numbers), max(numbers))
