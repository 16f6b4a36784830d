"""Questions that point: where something is, what is at a place, what is meant. Used in training, but not in exams.

Their answers contain much more than yes or no, so that a model learns from them to find what a question names.
"""

from __future__ import annotations

import numpy as np

from edge_llava.scenes.scene import Scene
from edge_llava.scenes.sentences import pick, place, references

POINTINGS = ("where", "what is there", "describe it")


def point(scene: Scene, pointing: str, random: np.random.Generator) -> tuple[str, str] | None:
    """Makes a question and its answer.

    Args:
        scene: What it is about.
        pointing: One of POINTINGS.
        random: Source of the choice.

    Returns:
        The pair; None if nothing can be named, or if no place contains exactly one thing.
    """
    places = [place(thing) for thing in scene.objects]
    if pointing == "what is there":
        alone = [thing for thing in scene.objects if places.count(place(thing)) == 1]
        if not alone:
            return None
        thing = alone[int(random.integers(len(alone)))]
        return f"What is {place(thing)}?", f"A {thing.phrase}."
    named = [(thing, names) for thing in scene.objects if (names := references(scene, thing))]
    if not named:
        return None
    thing, names = named[int(random.integers(len(named)))]
    if pointing == "where":
        where = place(thing)
        return f"Where is the {pick(random, names)}?", f"{where[0].upper()}{where[1:]}."
    return f"Describe the {pick(random, names)}.", f"A {thing.phrase} {place(thing)}."
