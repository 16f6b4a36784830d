"""A scene's facts in shorthand: entries that name something and state facts about it. Used in training, not in exams.

    red small star at the top left, circles two, blue ring none, star to large square right below.

Nearly every word must be looked up in the picture from the words before it. A model that learns to write such lists
learns to find what a question names, which yes-or-no answers alone teach very slowly.
"""

from __future__ import annotations

import numpy as np

from edge_llava.scenes.scene import COLOURS, MIN_OFFSET, SHAPES, Scene, SceneObject
from edge_llava.scenes.sentences import COUNTS, pick, place, plural, references

_REQUEST = "List the facts in shorthand."

_N_VIEWS = 2  # entries about each object
_N_PAIRS = 4
_N_NUMBERS = 4
_N_ABSENT = 3
_ATTRIBUTES = ("size", "colour", "shape", "place")


def shorthand(scene: Scene, random: np.random.Generator) -> tuple[str, str]:
    """Makes the request and its answer: entries in random order, without repeats.

    Args:
        scene: What they are about.
        random: Source of every choice.

    Returns:
        Question and answer.
    """
    entries = [_view(scene, thing, random) for thing in scene.objects for _ in range(_N_VIEWS)]
    entries += [_number(scene, random) for _ in range(_N_NUMBERS)]
    entries += [entry for _ in range(_N_ABSENT) if (entry := _absent(scene, random)) is not None]
    entries += _pairs(scene, random)
    entries = list(dict.fromkeys(entries))
    return _REQUEST, f"{', '.join(entries[index] for index in random.permutation(len(entries)))}."


def _view(scene: Scene, thing: SceneObject, random: np.random.Generator) -> str:
    """Describes an object with its attributes in random order, "star red small at the top"; or counts: "red two"."""
    names = [_ATTRIBUTES[index] for index in random.permutation(len(_ATTRIBUTES))]
    key = names[: int(random.integers(1, len(names)))]
    alike = sum(all(_value(other, name) == _value(thing, name) for name in key) for other in scene.objects)
    if alike > 1:
        return " ".join([*(_value(thing, name) for name in key), COUNTS[alike]])
    return " ".join(_value(thing, name) for name in names)


def _number(scene: Scene, random: np.random.Generator) -> str:
    attribute, values = (("shape", SHAPES), ("colour", COLOURS))[int(random.integers(2))]
    there = tuple(getattr(thing, attribute) for thing in scene.objects)
    value = pick(random, there if random.random() < 0.5 else values)
    what = plural(value) if attribute == "shape" else f"{value} objects"
    return f"{what} {_count(there.count(value))}"


def _absent(scene: Scene, random: np.random.Generator) -> str | None:
    """Names a colour and a shape that do not occur together, though each may occur alone."""
    there = [(thing.colour, thing.shape) for thing in scene.objects]
    colour = pick(random, [c for c, _ in there] if random.random() < 0.6 else COLOURS)
    shape = pick(random, [s for _, s in there] if random.random() < 0.6 else SHAPES)
    if (colour, shape) in there:
        return None
    return f"{colour} {shape} {_count(0)}" if random.random() < 0.5 else f"{shape} {colour} {_count(0)}"


def _pairs(scene: Scene, random: np.random.Generator) -> list[str]:
    """The relation of one object to another: "red star to small circle left below"."""
    named = [(thing, names) for thing in scene.objects if (names := references(scene, thing))]
    entries = []
    for _ in range(_N_PAIRS if len(named) > 1 else 0):
        first, second = (named[index] for index in random.permutation(len(named))[:2])
        way = _way(first[0], second[0])
        if way:
            entries.append(f"{pick(random, first[1])} to {pick(random, second[1])} {way}")
    return entries


def _way(start: SceneObject, goal: SceneObject) -> str:
    across, down = goal.x - start.x, goal.y - start.y
    words = [("right" if across > 0 else "left", across), ("below" if down > 0 else "above", down)]
    return " ".join(word for word, offset in words if abs(offset) >= MIN_OFFSET)


def _value(thing: SceneObject, attribute: str) -> str:
    return place(thing) if attribute == "place" else str(getattr(thing, attribute))


def _count(number: int) -> str:
    return COUNTS[number] if number else "none"
