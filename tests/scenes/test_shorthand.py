from __future__ import annotations

import re
from collections import Counter
from itertools import islice

import numpy as np

from edge_llava.scenes.scene import COLOURS, SHAPES, SIZES, Scene, sample_scenes
from edge_llava.scenes.sentences import place
from edge_llava.scenes.shorthand import shorthand

SCENES = list(islice(sample_scenes("train", 22), 400))
NUMBERS = ("none", "one", "two", "three", "four", "five")
PLACE = re.compile(r"(?:at|in|on) the (?:top|middle|bottom|left|right)(?: left| right)?")


def meant(scene: Scene, words: str) -> list:
    """The objects that some of: a size, a colour, a shape, a place, in any order, fit."""
    found = PLACE.search(words)
    plain = set(PLACE.sub("", words).split()) - {"object", "objects"}
    assert plain <= {*SIZES, *COLOURS, *SHAPES}, words
    things = [thing for thing in scene.objects if plain <= {thing.size, thing.colour, thing.shape}]
    return things if found is None else [thing for thing in things if place(thing) == found[0]]


def kind_and_truth(scene: Scene, entry: str) -> tuple[str, bool]:
    if way := re.fullmatch(r"(.+) to (?!the )(.+?)((?: (?:left|right|above|below))+)", entry):
        (start,), (goal,) = meant(scene, way[1]), meant(scene, way[2])
        across, down = goal.x - start.x, goal.y - start.y
        said = {"right": across, "left": -across, "below": down, "above": -down}
        return "way", all(said[word] >= 0.12 for word in way[3].split())
    head, _, last = entry.rpartition(" ")
    if last in NUMBERS:
        # "crosses" is the plural of "cross", and "s" of the others
        singular = re.sub(r"^(crosse|[a-z]+)s$", lambda m: "cross" if m[1] == "crosse" else m[1], head)
        return "number", len(meant(scene, head if head in SHAPES else singular)) == NUMBERS.index(last)
    return "view", len(meant(scene, entry)) >= 1 and PLACE.search(entry) is not None


def test_every_entry_is_true() -> None:
    random = np.random.default_rng(1)
    kinds: Counter[str] = Counter()
    for scene in SCENES:
        _, text = shorthand(scene, random)
        assert text.endswith(".")
        entries = text[:-1].split(", ")
        assert len(set(entries)) == len(entries)
        for entry in entries:
            kind, is_true = kind_and_truth(scene, entry)
            assert is_true, (entry, scene)
            kinds[kind] += 1
    assert min(kinds[kind] for kind in ("way", "number", "view")) > 800


def test_a_lone_object_has_no_way_to_another() -> None:
    random = np.random.default_rng(3)
    alone = [scene for scene in SCENES if len(scene.objects) == 1]
    assert alone
    entries = [(scene, entry) for scene in alone for entry in shorthand(scene, random)[1][:-1].split(", ")]
    assert {kind_and_truth(scene, entry)[0] for scene, entry in entries} == {"number", "view"}
