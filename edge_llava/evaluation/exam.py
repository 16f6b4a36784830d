"""The exam: held-out pictures, the questions about each, and which other picture they are asked about as a check."""

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
    """What is asked about one picture.

    Attributes:
        picture: Its place in the exam, from 0.
        scene: What the picture shows.
        questions: At most one of every kind, in the order of KINDS.
    """

    picture: int
    scene: Scene
    questions: tuple[Question, ...]

    @property
    def description(self) -> Question:
        """The request for a detailed description, with the right one."""
        return Question(DESCRIPTION, DESCRIPTION, _DESCRIBE, describe(self.scene))


def set_exam(seed: int, n: int) -> list[Sheet]:
    """Draws an exam; the same one for the same seed.

    Args:
        seed: From 0. Sheet i is about scene i of the held-out split of this seed.
        n: Number of pictures, from 1.
    """
    sheets = []
    for picture, scene in enumerate(islice(sample_scenes("held-out", seed), n)):
        random = np.random.default_rng([seed, picture, 3])
        asked = (ask(scene, kind, random) for kind in KINDS)
        sheets.append(Sheet(picture, scene, tuple(question for question in asked if question is not None)))
    return sheets


def exchange(n: int, seed: int) -> list[int]:
    """Gives every picture the sheet of another one.

    Args:
        n: Number of pictures.
        seed: Seed of the choice.

    Returns:
        For each picture the index of the sheet it gets: a permutation of 0..n-1 that leaves nothing in its place. Empty
        for a single picture, which has no other.
    """
    if n < 2:
        return []
    order = np.random.default_rng([seed, 4]).permutation(n)
    sheet_of = np.empty(n, int)
    sheet_of[order] = np.roll(order, 1)  # one ring through all pictures: nobody is its own neighbour
    return [int(sheet) for sheet in sheet_of]


def guess(questions: Iterable[Question]) -> Share:
    """What an answerer that is blind to the pictures would get at best: the commonest answer to every form of question.

    It is taken from these very questions, so that for a few of them it is higher than anybody could hope for.
    """
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for question in questions:
        answers[question.form][_blind_answer(question)] += 1
    n_right = sum(max(counts.values()) for counts in answers.values())
    return Share(n_right, sum(counts.total() for counts in answers.values()))


def _blind_answer(question: Question) -> str:
    """The answer as a blind answerer can aim at it: of two things that the question names, the first or the second."""
    choice = _CHOICE_BY_NAME.fullmatch(question.text.lower())
    if choice is None:
        return normalize_answer(question.answer)
    return "first" if choice["first"] == normalize_answer(question.answer) else "second"
