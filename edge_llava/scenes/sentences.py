"""Texts about a scene: phrases, captions in five styles, and the detailed description."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

from edge_llava.scenes.scene import COLOURS, SHAPES, SIZES, Scene, SceneObject

COUNTS = ("no", "one", "two", "three", "four", "five")
_ROWS = ("top", "middle", "bottom")
_COLUMNS = ("left", "centre", "right")
_MENTION = re.compile(rf"\b({'|'.join(SIZES)}) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})\b")
_GRID = 8  # rows in which a description reads the picture


def plural(noun: str) -> str:
    """cross -> crosses, star -> stars, object -> objects."""
    return f"{noun}es" if noun.endswith("ss") else f"{noun}s"


def place(thing: SceneObject) -> str:
    """The place of an object, by thirds of the picture: "at the top left", "in the middle"."""
    row, column = _ROWS[min(2, int(thing.y * 3))], _COLUMNS[min(2, int(thing.x * 3))]
    if row == "middle":
        return "in the middle" if column == "centre" else f"on the {column}"
    return f"at the {row}" if column == "centre" else f"at the {row} {column}"


def in_reading_order(scene: Scene) -> list[SceneObject]:
    """The objects of a scene row by row (each an eighth of the picture), from left to right."""
    return sorted(scene.objects, key=lambda thing: (int(thing.y * _GRID), thing.x))


def join(parts: list[str]) -> str:
    """a, b and c."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def captions(scene: Scene) -> tuple[str, str, str, str, str]:
    """Five captions of one scene, from the plainest to one that relates two objects."""
    things = in_reading_order(scene)
    phrases = [f"a {thing.phrase}" for thing in things]
    groups = Counter(f"{thing.colour} {thing.shape}" for thing in things)
    grouped = [_count(number, what) for what, number in groups.items()]
    first, last = things[0], things[-1]
    if len(things) == 1:
        related = f"A single {first.phrase} {place(first)} of the picture."
    else:
        relation = _relation(first, last)
        related = f"A {first.colour} {first.shape} {relation} a {last.colour} {last.shape}."
    return (
        _sentence(join(phrases)),
        _sentence(f"a picture of {join(grouped)}"),
        _sentence(f"there is {join([f'a {thing.phrase} {place(thing)}' for thing in things])}"),
        _sentence(f"{_count(len(things), 'object')}: {join([f'a {thing.colour} {thing.shape}' for thing in things])}"),
        related,
    )


def describe(scene: Scene) -> str:
    """The detailed description: how many objects, then each with its size, colour, shape and place."""
    things = in_reading_order(scene)
    sentences = [f"The picture shows {_count(len(things), 'object')}."]
    sentences += [f"There is a {thing.phrase} {place(thing)}." for thing in things]
    return " ".join(sentences)


def mentioned_objects(text: str) -> Counter[str]:
    """Counts the objects that a text mentions by size, colour and shape, by phrase."""
    return Counter(" ".join(match) for match in _MENTION.findall(text.lower()))


def references(scene: Scene, thing: SceneObject, *, without: str = "") -> list[str]:
    """Phrases that refer to one object and no other: "red circle", "large object", "small star".

    Args:
        scene: The scene.
        thing: One of its objects.
        without: "size", "colour" or "shape": the attribute to leave out because it is asked for.
    """
    found = []
    for use_size in (False, True):
        for use_colour in (False, True):
            for use_shape in (False, True):
                used = [n for n, u in (("size", use_size), ("colour", use_colour), ("shape", use_shape)) if u]
                if not used or without in used:
                    continue
                if sum(all(getattr(o, n) == getattr(thing, n) for n in used) for o in scene.objects) == 1:
                    words = [getattr(thing, name) for name in used]
                    found.append(" ".join(words if use_shape else [*words, "object"]))
    return found


def pick(random: np.random.Generator, values: list[str] | tuple[str, ...]) -> str:
    """Picks one of several texts."""
    return values[int(random.integers(len(values)))]


def _relation(first: SceneObject, other: SceneObject) -> str:
    across, down = other.x - first.x, other.y - first.y
    if abs(across) >= abs(down):
        return "to the left of" if across > 0 else "to the right of"
    return "above" if down > 0 else "below"


def _count(number: int, noun: str) -> str:
    return f"one {noun}" if number == 1 else f"{COUNTS[number]} {plural(noun)}"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
