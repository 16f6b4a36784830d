from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from edge_llava.scenes.scene import COLOURS, SHAPES, SIZES, Scene, SceneObject
from edge_llava.scenes.sentences import captions, describe, mentioned_objects, pick, place, plural, references

NUMBERS = ("no", "one", "two", "three", "four", "five")
NOUNS = {shape: (shape, False) for shape in SHAPES} | {f"{shape}s": (shape, True) for shape in SHAPES}
NOUNS["crosses"] = NOUNS.pop("crosss")


def thing(phrase, x, y):
    size, colour, shape = phrase.split()
    return SceneObject(shape, colour, size, x, y, 0.1 if size == "small" else 0.17, 0.0)


CROSSES = Scene(0, (thing("large red cross", 0.2, 0.2), thing("small red cross", 0.8, 0.25)))
LONELY = Scene(0, (thing("small blue star", 0.5, 0.5),))


@pytest.mark.parametrize(
    ("one", "many"),
    [("cross", "crosses"), ("star", "stars"), ("ring", "rings"), ("object", "objects"), ("circle", "circles")],
)
def test_plurals(one, many):
    assert plural(one) == many


def test_captions_of_two_of_a_kind():
    assert captions(CROSSES) == (
        "A large red cross and a small red cross.",
        "A picture of two red crosses.",
        "There is a large red cross at the top left and a small red cross at the top right.",
        "Two objects: a red cross and a red cross.",
        "A red cross to the left of a red cross.",
    )


def test_captions_of_one_object():
    assert captions(LONELY) == (
        "A small blue star.",
        "A picture of one blue star.",
        "There is a small blue star in the middle.",
        "One object: a blue star.",
        "A single small blue star in the middle of the picture.",
    )


def test_description_of_two_of_a_kind():
    assert describe(CROSSES) == (
        "The picture shows two objects. There is a large red cross at the top left. "
        "There is a small red cross at the top right."
    )
    assert describe(LONELY) == "The picture shows one object. There is a small blue star in the middle."


def test_texts_are_sentences_with_right_articles_and_plurals(scenes):
    for scene in scenes:
        said = captions(scene)
        assert len(set(said)) == 5
        for text in (*said, describe(scene)):
            assert re.fullmatch(r"[A-Z][A-Za-z :,.]*\.", text)
            assert not re.search(r"\b[Aa] [aeiou]|  |\bno\b", text)
            for noun in re.findall(r"\b[Aa] (?:single )?(?:small |large )?(?:\w+) (\w+)", text):
                assert noun in (*SHAPES, "of"), text  # "a picture of"


def test_captions_say_the_facts(scenes):
    for scene in scenes:
        whole, grouped, placed, counted, _ = captions(scene)
        phrases = Counter(o.phrase for o in scene.objects)
        short = Counter(f"{o.colour} {o.shape}" for o in scene.objects)
        assert mentioned_objects(whole) == mentioned_objects(placed) == phrases
        assert Counter(re.findall(r"\ba (\w+ \w+)", counted)) == short
        assert counted.lower().startswith(f"{NUMBERS[len(scene.objects)]} object")
        parts = re.split(", | and ", grouped.removeprefix("A picture of ").rstrip("."))
        groups = [part.split() for part in parts]
        assert Counter({f"{c} {NOUNS[noun][0]}": NUMBERS.index(number) for number, c, noun in groups}) == short
        assert all(NOUNS[noun][1] == (number != "one") for number, _, noun in groups)


def test_the_relating_caption_is_true(scenes):
    checked = Counter()
    for scene in scenes:
        if len(scene.objects) == 1:
            continue
        words = "to the left of|to the right of|above|below"
        match = re.fullmatch(rf"A (\w+) (\w+) ({words}) a (\w+) (\w+)\.", captions(scene)[4])
        pairs = [
            (a, b)
            for a in scene.objects
            for b in scene.objects
            if a is not b and (a.colour, a.shape, b.colour, b.shape) == match.group(1, 2, 4, 5)
        ]
        holds = {
            "to the left of": lambda a, b: a.x < b.x - 0.05,
            "to the right of": lambda a, b: a.x > b.x + 0.05,
            "above": lambda a, b: a.y < b.y - 0.05,
            "below": lambda a, b: a.y > b.y + 0.05,
        }[match[3]]
        assert any(holds(a, b) for a, b in pairs), captions(scene)
        checked[match[3]] += 1
    assert set(checked) >= {"to the left of", "to the right of", "above"}


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (0.1, 0.1, "at the top left"),
        (0.5, 0.3, "at the top"),
        (0.9, 0.5, "on the right"),
        (0.5, 0.5, "in the middle"),
        (0.34, 0.66, "in the middle"),
        (0.2, 0.5, "on the left"),
        (0.7, 0.7, "at the bottom right"),
    ],
)
def test_places_are_thirds_of_the_picture(x, y, words):
    assert place(thing("small red star", x, y)) == words


def test_descriptions_hold_every_object_once_and_in_its_place(scenes):
    for scene in scenes:
        text = describe(scene)
        assert mentioned_objects(text) == Counter(o.phrase for o in scene.objects)
        first, *others = text.split(". ")
        noun = "object" if len(scene.objects) == 1 else "objects"
        assert first == f"The picture shows {NUMBERS[len(scene.objects)]} {noun}"
        said = Counter(sentence.rstrip(".") for sentence in others)
        assert said == Counter(f"There is a {o.phrase} {place(o)}" for o in scene.objects)


def test_mentioned_objects_reads_other_peoples_sentences():
    text = "I see a Large Red Circle; a small blue star and some red ring near a large red circle, or a smaller one."
    assert mentioned_objects(text) == Counter({"large red circle": 2, "small blue star": 1})
    assert mentioned_objects("") == Counter()


def test_references_fit_one_object_and_leave_unsaid_what_is_asked(scenes):
    values = {"size": SIZES, "colour": COLOURS, "shape": SHAPES}
    n_found = 0
    for scene in scenes:
        for about in scene.objects:
            for without in ("", *values):
                found = references(scene, about, without=without)
                assert len(found) == len(set(found))
                for name in found:
                    words = set(name.split()) - {"object"}
                    assert words
                    assert not words & set(values.get(without, ()))
                    fits = [o for o in scene.objects if words <= {o.size, o.colour, o.shape}]
                    assert fits == [about]
                    n_found += 1
    assert n_found > 10_000


def test_all_references_of_a_lonely_object():
    assert set(references(LONELY, LONELY.objects[0], without="colour")) == {"star", "small object", "small star"}
    assert references(CROSSES, CROSSES.objects[0], without="size") == []


def test_pick_takes_each_value():
    random = np.random.default_rng(0)
    assert {pick(random, ["a", "b", "c"]) for _ in range(50)} == {"a", "b", "c"}
