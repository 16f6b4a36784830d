from __future__ import annotations

import re
from itertools import islice

import numpy as np
import pytest

from edge_llava.scenes.pointing import POINTINGS, point
from edge_llava.scenes.scene import Scene, sample_scenes
from edge_llava.scenes.sentences import place

SCENES = list(islice(sample_scenes("train", 21), 800))


def meant(scene: Scene, name: str) -> list:
    words = set(name.split()) - {"object"}
    return [thing for thing in scene.objects if words <= {thing.size, thing.colour, thing.shape}]


@pytest.mark.parametrize("pointing", POINTINGS)
def test_answers_are_right(pointing: str) -> None:
    random = np.random.default_rng(1)
    n_asked = 0
    for scene in SCENES:
        pair = point(scene, pointing, random)
        if pair is None:
            continue
        n_asked += 1
        question, answer = pair
        if pointing == "what is there":
            where = re.fullmatch(r"What is (.+)\?", question)
            assert where is not None
            (thing,) = (thing for thing in scene.objects if place(thing) == where[1])
            assert answer == f"A {thing.size} {thing.colour} {thing.shape}."
            continue
        name = re.fullmatch(r"(?:Where is|Describe) the (.+)[?.]", question)
        assert name is not None
        (thing,) = meant(scene, name[1])
        expected = place(thing).capitalize() if pointing == "where" else f"A {thing.phrase} {place(thing)}"
        assert answer == f"{expected}."
    assert n_asked > 600


def test_nothing_is_said_where_nothing_can_be_named() -> None:
    random = np.random.default_rng(2)
    twins = [scene for scene in SCENES if len({thing.phrase for thing in scene.objects}) == 1 < len(scene.objects)]
    assert twins
    assert all(point(scene, "where", random) is None for scene in twins)
