"""The teacher that knows every fact of a scene; its answers are checked by a reader that knows only the scene."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from edge_llava.errors import DataError
from edge_llava.scenes.questions import KINDS, ask
from edge_llava.scenes.scene import Scene, sample_scenes
from edge_llava.scenes.sentences import mentioned_objects
from edge_llava.training.instructions.phrasings import BRIEF, DETAIL
from edge_llava.training.instructions.scene_teacher import teach

SCENES = list(islice(sample_scenes("train", 5), 150))


def askable(scene: Scene) -> dict[str, str]:
    """Many questions and answers that `ask` returns about a scene."""
    random = np.random.default_rng(1)
    found = [ask(scene, kind, random) for kind in KINDS for _ in range(100)]
    return {question.text: question.answer for question in found if question is not None}


def test_conversations_have_no_question_twice_and_true_answers() -> None:
    random = np.random.default_rng(0)
    lengths, n_compared = set(), 0
    for index, scene in enumerate(SCENES):
        turns = teach(scene, "conversation", random)
        questions = [turn.question for turn in turns]
        assert len(set(questions)) == len(questions)
        lengths.add(len(questions))
        if index < 20:
            known = askable(scene)
            compared = [(turn.answer, known[turn.question]) for turn in turns if turn.question in known]
            assert all(answer == expected for answer, expected in compared)
            n_compared += len(compared)
    assert lengths == {3, 4, 5, 6, 7, 8}
    assert n_compared > 30


def test_descriptions_name_each_object_once() -> None:
    random = np.random.default_rng(0)
    asked = set()
    for scene in SCENES:
        (turn,) = teach(scene, "detail", random)
        asked.add(turn.question)
        assert sorted(mentioned_objects(turn.answer).elements()) == sorted(thing.phrase for thing in scene.objects)
    assert asked == set(DETAIL)


def test_reasoning_is_one_turn() -> None:
    random = np.random.default_rng(0)
    assert len({teach(scene, "reasoning", random)[0].question for scene in SCENES}) > 50
    assert {len(teach(scene, "reasoning", random)) for scene in SCENES} == {1}


def test_same_seed_same_words() -> None:
    def everything(seed: int) -> list[object]:
        random = np.random.default_rng(seed)
        return [teach(scene, kind, random) for scene in SCENES for kind in ("conversation", "detail", "reasoning")]

    assert everything(3) == everything(3) != everything(4)


def test_unknown_type() -> None:
    with pytest.raises(DataError, match="no responses of type 'poem'"):
        teach(SCENES[0], "poem", np.random.default_rng(0))


def test_phrasings() -> None:
    assert min(len(DETAIL), len(BRIEF)) >= 11
    assert len({text.lower() for text in (*DETAIL, *BRIEF)}) == len(DETAIL) + len(BRIEF)
