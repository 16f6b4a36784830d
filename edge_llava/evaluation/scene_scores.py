"""The scores of an exam about scenes, as counts."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_llava.evaluation.answering import ExamReply, Look, take_exam
from edge_llava.evaluation.exam import DESCRIPTION, exchange, guess, set_exam
from edge_llava.evaluation.share import Share, add
from edge_llava.home.progress import ProgressCallback, silent
from edge_llava.scenes.questions import KINDS
from edge_llava.scenes.sentences import mentioned_objects


@dataclass(frozen=True)
class SceneScores:
    """The result of an exam.

    Attributes:
        n: Number of pictures.
        accuracy: Share of right answers, by kind of question.
        shuffled: The same for questions about other pictures; None for a single picture.
        guessing: The best share that guessing could reach, by kind.
        precision: Share of the objects mentioned in descriptions that are there.
        recall: Share of the objects that are there and are mentioned.
        wrong: The wrong replies, in order.
        seconds: Duration of the exam.
    """

    n: int
    accuracy: Mapping[str, Share]
    shuffled: Mapping[str, Share] | None
    guessing: Mapping[str, Share]
    precision: Share
    recall: Share
    wrong: tuple[ExamReply, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The scores as JSON values: shares 0..1, null if nothing was asked."""
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
    """Gives an exam about held-out scenes.

    Args:
        look: Shows a picture to the answerer; a `BundleAnswerer` for a bundle.
        seed: Seed of the pictures and questions, from 0.
        n: Number of pictures, at least 1.
        progress: Called with the number of pictures done.
    """
    started = time.perf_counter()
    replies = take_exam(set_exam(seed, n), exchange(n, seed), look, progress)
    return score(replies, time.perf_counter() - started)


def score(replies: Sequence[ExamReply], seconds: float) -> SceneScores:
    """Scores the replies to one exam."""
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


def _count_right(replies: Sequence[ExamReply]) -> dict[str, Share]:
    by_kind = {kind: [reply.is_right for reply in replies if reply.question.kind == kind] for kind in KINDS}
    return {kind: Share(sum(marks), len(marks)) for kind, marks in by_kind.items()}


def _score_descriptions(descriptions: Sequence[ExamReply]) -> tuple[Share, Share]:
    """Precision and recall over the objects of all pictures; two equal objects must be mentioned twice."""
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
