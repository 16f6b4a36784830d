"""Answers questions about a scene from their text and the scene's facts alone, independently of how they were made."""

from __future__ import annotations

import re

SHAPES = {
    "circle": "circles",
    "square": "squares",
    "triangle": "triangles",
    "star": "stars",
    "cross": "crosses",
    "ring": "rings",
}
NUMBERS = ("None", "One", "Two", "Three", "Four", "Five")
VISIBLE_OFFSET = 0.1  # of the side: with a smaller offset it is not clear which is on the left

COLOUR = "red|yellow|green|cyan|blue|purple"
ONE = rf"(?:(?:small|large) )?(?:(?:{COLOUR}) )?(?:{'|'.join(SHAPES)}|object)"
MANY = rf"(?:(?:{COLOUR}) )?(?:{'|'.join(SHAPES.values())}|objects)"


def solve(scene, text):
    """The answer; None if a name does not fit exactly one object, or if the answer is ambiguous."""
    found = [(rule, match) for pattern, rule in RULES.items() if (match := re.fullmatch(pattern, text))]
    if len(found) != 1:
        raise ValueError(f"{len(found)} readings of {text!r}")
    rule, match = found[0]
    try:
        return rule(scene.objects, *match.groups())
    except LookupError:
        return None


def matching(objects, name):
    """The objects that a name fits: "small red star", "rings", "blue objects"."""
    words = {plural: shape for shape, plural in SHAPES.items()} | {"objects": "object"}
    wanted = {words.get(word, word) for word in name.split()} - {"object"}
    return [thing for thing in objects if wanted <= {thing.size, thing.colour, thing.shape}]


def only(objects, name):
    found = matching(objects, name)
    if len(found) != 1:
        raise LookupError
    return found[0]


def yes(value):
    return "Yes." if value else "No."


def exists(objects, name):
    return yes(matching(objects, name))


def colour(objects, name):
    return f"{only(objects, name).colour.title()}."


def shape(objects, name):
    return f"A {only(objects, name).shape}."


def count(objects, name):
    return f"{NUMBERS[len(matching(objects, name))]}."


def size(objects, name):
    return f"{only(objects, name).size.title()}."


def side(objects, axis, name, other):
    """-1 for left or above, 1 for right or below."""
    offset = getattr(only(objects, name), axis) - getattr(only(objects, other), axis)
    if abs(offset) < VISIBLE_OFFSET:
        raise LookupError
    return 1 if offset > 0 else -1


def is_across(objects, name, word, other):
    return yes(side(objects, "x", name, other) == {"left": -1, "right": 1}[word])


def is_along(objects, name, word, other):
    return yes(side(objects, "y", name, other) == {"above": -1, "below": 1}[word])


def left_or_right(objects, name, other):
    return "Left." if side(objects, "x", name, other) < 0 else "Right."


def above_or_below(objects, name, other):
    return "Above." if side(objects, "y", name, other) < 0 else "Below."


def extreme(objects, word, name, other):
    radii = {each: only(objects, each).radius for each in (name, other)}
    small, large = sorted(radii, key=radii.__getitem__)
    if radii[large] - radii[small] < 0.03:
        raise LookupError
    return f"The {large if word == 'larger' else small}."


def more(objects, name, other):
    return yes(len(matching(objects, name)) > len(matching(objects, other)))


def same(objects, name, other, attribute):
    return yes(getattr(only(objects, name), attribute) == getattr(only(objects, other), attribute))


RULES = {
    rf"(?:Is there|Can you see|Does the picture show) a ({ONE})\?": exists,
    rf"What colou?r is the ({ONE})\?": colour,
    rf"Which colour does the ({ONE}) have\?": colour,
    rf"What shape is the ({ONE})\?": shape,
    rf"What is the shape of the ({ONE})\?": shape,
    rf"Which shape does the ({ONE}) have\?": shape,
    rf"How many ({MANY}) (?:are there|can you see|are in the picture)\?": count,
    rf"Is the ({ONE}) (?:small or large|large or small)\?": size,
    rf"What size is the ({ONE})\?": size,
    rf"Is the ({ONE}) to the (left|right) of the ({ONE})\?": is_across,
    rf"Is the ({ONE}) (above|below) the ({ONE})\?": is_along,
    rf"Is the ({ONE}) (?:left or right|right or left) of the ({ONE})\?": left_or_right,
    rf"Is the ({ONE}) (?:above or below|below or above) the ({ONE})\?": above_or_below,
    rf"Which is (larger|smaller), the ({ONE}) or the ({ONE})\?": extreme,
    rf"Are there more ({MANY}) than ({MANY})\?": more,
    rf"Are the ({ONE}) and the ({ONE}) the same (colour|shape)\?": same,
}
