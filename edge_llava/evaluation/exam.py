"""An exam: held-out pictures, the questions about each, and the exchange of sheets between pictures as a check."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import numpy as np

from edge_llava.evaluation.share import Share
from edge_llava.scenes.questions import KINDS, Question, ask, normalize_answer
from edge_llava.scenes.scene import Scene, sample_scenes
from edge_llava.scenes.sentences import describe

DESCRIPTION = "description"
_DESCRIBE = "Describe the picture in detail."
_CHOICE_BY_NAME = re.compile(r"which is \w+, (?P<first>.+) or (?P<second>.+)\?")


@dataclass(frozen=True)
class Sheet:
    """The questions about one picture.

    Attributes:
        picture: Index of the picture in the exam, from 0.
        scene: The scene that the picture shows.
        questions: At most one of every kind, in the order of KINDS.
    """

    picture: int
    scene: Scene
    questions: tuple[Question, ...]

    @property
    def description(self) -> Question:
        """The request for a detailed description, with the right answer."""
        return Question(DESCRIPTION, DESCRIPTION, _DESCRIBE, describe(self.scene))


def set_exam(seed: int, n: int) -> list[Sheet]:
    """Samples an exam; equal seeds give equal exams.

    Args:
        seed: From 0. Sheet i is about scene i of the held-out split of this seed.
        n: Number of pictures, at least 1.
    """
    sheets = []
    for picture, scene in enumerate(islice(sample_scenes("held-out", seed), n)):
        random = np.random.default_rng([seed, picture, 3])
        asked = (ask(scene, kind, random) for kind in KINDS)
        sheets.append(Sheet(picture, scene, tuple(question for question in asked if question is not None)))
    return sheets


def exchange(n: int, seed: int) -> list[int]:
    """Assigns every picture the sheet of another one.

    Args:
        n: Number of pictures.
        seed: Seed of the choice.

    Returns:
        For each picture the index of its sheet: a permutation of 0..n-1 without a fixed point. Empty for a single
        picture, for which there is no other.
    """
    if n < 2:
        return []
    order = np.random.default_rng([seed, 4]).permutation(n)
    sheet_of = np.empty(n, int)
    sheet_of[order] = np.roll(order, 1)  # a ring through all pictures, in which none is its own neighbour
    return [int(sheet) for sheet in sheet_of]


def guess(questions: Iterable[Question]) -> Share:
    """The best score without seeing the pictures: that of the most common answer to every form of question.

    It is computed from the same questions, so that for few questions it is higher than any guesser could expect.
    """
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for question in questions:
        answers[question.form][_blind_answer(question)] += 1
    n_right = sum(max(counts.values()) for counts in answers.values())
    return Share(n_right, sum(counts.total() for counts in answers.values()))


def _blind_answer(question: Question) -> str:
    """The answer in the form that a guesser could choose: "first" or "second" if the question names two things."""
    choice = _CHOICE_BY_NAME.fullmatch(question.text.lower())
    if choice is None:
        return normalize_answer(question.answer)
    return "first" if choice["first"] == normalize_answer(question.answer) else "second"
