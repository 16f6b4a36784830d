"""The marks of an exam about scenes, as counts."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_llava.evaluation.answering import Look, Reply, take_exam
from edge_llava.evaluation.exam import DESCRIPTION, exchange, guess, set_exam
from edge_llava.evaluation.share import Share, add
from edge_llava.home.progress import ProgressCallback, silent
from edge_llava.scenes.questions import KINDS
from edge_llava.scenes.sentences import mentioned_objects


@dataclass(frozen=True)
class SceneScores:
    """What an exam showed.

    Attributes:
        n: Pictures.
        accuracy: Right answers, by kind of question.
        shuffled: The same questions asked about other pictures; None for a single picture, which has no other.
        guessing: What answering blindly would get at best, by kind.
        precision: Of the objects that the descriptions mention, those that are there.
        recall: Of the objects that are there, those that the descriptions mention.
        wrong: The replies that cost marks, in order.
        seconds: Time that the exam took.
    """

    n: int
    accuracy: Mapping[str, Share]
    shuffled: Mapping[str, Share] | None
    guessing: Mapping[str, Share]
    precision: Share
    recall: Share
    wrong: tuple[Reply, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The scores as JSON values: shares 0..1, null where nothing was asked."""
        return {
            "accuracy": {kind: _figures(share) for kind, share in self.accuracy.items()},
            "overall": add(self.accuracy.values()).value,
            "shuffled": None if self.shuffled is None else {k: _figures(s) for k, s in self.shuffled.items()},
            "shuffled_overall": None if self.shuffled is None else add(self.shuffled.values()).value,
            "guessing": {kind: share.value for kind, share in self.guessing.items()},
            "guessing_overall": add(self.guessing.values()).value,
            "description": {"precision": self.precision.value, "recall": self.recall.value, "n": self.n},
            "n": self.n,
            "seconds": self.seconds,
        }


def evaluate_scenes(look: Look, *, seed: int, n: int, progress: ProgressCallback = silent) -> SceneScores:
    """Holds an exam about held-out scenes.

    Args:
        look: Who answers, `BundleAnswerer` for a bundle.
        seed: Of the pictures and questions, from 0.
        n: Pictures, from 1.
        progress: Told the pictures done.
    """
    started = time.perf_counter()
    replies = take_exam(set_exam(seed, n), exchange(n, seed), look, progress)
    return score(replies, time.perf_counter() - started)


def score(replies: Sequence[Reply], seconds: float) -> SceneScores:
    """Counts the marks of the replies to one exam."""
    straight = [reply for reply in replies if not reply.is_check]
    checks = [reply for reply in replies if reply.is_check]
    asked = [reply.question for reply in straight]
    descriptions = [reply for reply in straight if reply.question.kind == DESCRIPTION]
    precision, recall = _score_descriptions(descriptions)
    return SceneScores(
        n=len(descriptions),
        accuracy=_count_right(straight),
        shuffled=_count_right(checks) if checks else None,
        guessing={kind: guess(question for question in asked if question.kind == kind) for kind in KINDS},
        precision=precision,
        recall=recall,
        wrong=tuple(reply for reply in straight if not reply.is_right),
        seconds=seconds,
    )


def _count_right(replies: Sequence[Reply]) -> dict[str, Share]:
    by_kind = {kind: [reply.is_right for reply in replies if reply.question.kind == kind] for kind in KINDS}
    return {kind: Share(sum(marks), len(marks)) for kind, marks in by_kind.items()}


def _score_descriptions(descriptions: Sequence[Reply]) -> tuple[Share, Share]:
    """Precision and recall over the objects of all pictures; two of a kind must be mentioned twice."""
    n_right = n_mentioned = n_there = 0
    for reply in descriptions:
        mentioned, there = mentioned_objects(reply.text), mentioned_objects(reply.question.answer)
        n_right += (mentioned & there).total()
        n_mentioned += mentioned.total()
        n_there += there.total()
    return Share(n_right, n_mentioned), Share(n_right, n_there)


def _figures(share: Share) -> dict[str, float | int | None]:
    low, high = share.interval
    return {"value": share.value, "n": share.n, "low": low, "high": high}
