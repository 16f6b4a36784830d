"""Answerers whose scores are known in advance."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_llava.evaluation.answering import Ask, Look
from edge_llava.scenes.scene import Scene
from edge_llava.scenes.sentences import describe

SOLVER = Path(__file__).parents[1] / "scenes" / "solver.py"


@pytest.fixture(scope="session")
def oracle() -> Look:
    """An answerer that sees everything, and says so if something is not there."""
    solve: Callable[[Scene, str], str | None] = runpy.run_path(str(SOLVER))["solve"]

    def look(scene: Scene) -> Ask:
        def ask(question: str, max_tokens: int) -> str:
            if question == "Describe the picture in detail.":
                return describe(scene)
            return solve(scene, question) or "I do not know."

        return ask

    return look


@pytest.fixture(scope="session")
def blind() -> Look:
    """An answerer that sees nothing, and gives the same likely answer to every question of a kind."""
    answers = {"colour": "Red.", "color": "Red.", "shape": "A star.", "How many": "None.", "size": "Small."}
    answers |= {"small or": "Small.", "large or": "Small.", " left or": "Left.", " right or": "Left."}
    answers |= {"above or": "Above.", "below or": "Above."}

    def ask(question: str, max_tokens: int) -> str:
        if question.startswith("Which is"):
            return question.split(", ")[1].split(" or ", maxsplit=1)[0].capitalize()
        if question.startswith(("Are", "Is there", "Can", "Does")):
            return "Yes."
        return next((answer for words, answer in answers.items() if words in question), "Yes.")

    return lambda scene: ask
