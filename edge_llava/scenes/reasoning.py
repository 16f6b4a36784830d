"""Questions about a scene that need reasoning, with exact answers and their reasons."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable

import numpy as np

from edge_llava.scenes.scene import COLOURS, MIN_OFFSET, SHAPES, Scene, SceneObject
from edge_llava.scenes.sentences import COUNTS, in_reading_order, join, pick, place, plural, references

_Form = Callable[[Scene, np.random.Generator], tuple[str, str] | None]


def reason(scene: Scene, random: np.random.Generator) -> tuple[str, str]:
    """Makes a question that needs reasoning, and its answer of one to three sentences.

    Args:
        scene: The scene to ask about.
        random: Source of the choice; all forms that the scene allows are equally likely.

    Returns:
        Question and answer.
    """
    found = [pair for form in _FORMS if (pair := form(scene, random)) is not None]
    return found[int(random.integers(len(found)))]


def _take_away(scene: Scene, random: np.random.Generator) -> tuple[str, str]:
    total = len(scene.objects)
    attribute = pick(random, ("colour", "shape"))
    value = pick(random, sorted({getattr(thing, attribute) for thing in scene.objects}))
    number = sum(getattr(thing, attribute) == value for thing in scene.objects)
    one, many, what = (value, value, f"{value} objects")
    if attribute == "shape":
        one, many, what = (f"a {value}", plural(value), plural(value))
    question = f"If all the {what} were taken away, how many objects would be left?"
    if total == 1:
        return question, f"None would be left. There is one object and it is {one}."
    if number == total:
        return question, f"None would be left. {_all(total).capitalize()} objects are {many}."
    share = f"one of them is {one}" if number == 1 else f"{COUNTS[number]} of them are {many}"
    left = COUNTS[total - number].capitalize()
    return question, f"{left} would be left. There are {COUNTS[total]} objects and {share}."


def _paint(scene: Scene, random: np.random.Generator) -> tuple[str, str]:
    numbers = Counter(thing.colour for thing in scene.objects)
    old = pick(random, sorted(numbers))
    # half of the time the new colour is there already, if the scene has a second one
    present = sorted(set(numbers) - {old})
    new = pick(random, present if present and random.random() < 0.5 else [c for c in COLOURS if c != old])
    were = f"{COUNTS[numbers[old]]} objects are" if numbers[old] > 1 else "one object is"
    are = {0: "none is", 1: "one is"}.get(numbers[new], f"{COUNTS[numbers[new]]} are")
    return (
        f"If every {old} object were painted {new}, how many {new} objects would there be?",
        f"{COUNTS[numbers[old] + numbers[new]].capitalize()}. Now {were} {old} and {are} {new}.",
    )


def _turn(scene: Scene, random: np.random.Generator) -> tuple[str, str] | None:
    found = _pick_referable(scene, random)
    if found is None:
        return None
    thing, name = found
    if random.random() < 0.5:
        turned, seen = dataclasses.replace(thing, x=1 - thing.x, y=1 - thing.y), "turned upside down"
    else:
        turned, seen = dataclasses.replace(thing, x=1 - thing.x), "seen in a mirror"
    question = f"If the picture were {seen}, where would the {name} be?"
    before, after = place(thing), place(turned)
    if before == after:
        return question, f"It would still be {after}."
    return question, f"It would be {after}. Now it is {before}."


def _walk(scene: Scene, random: np.random.Generator) -> tuple[str, str] | None:
    across = random.random() < 0.5
    axis, words = ("x", ("left", "right")) if across else ("y", ("up", "down"))
    named = [(thing, names) for thing in scene.objects if (names := references(scene, thing))]
    pairs = [(a, b) for a in named for b in named if abs(getattr(a[0], axis) - getattr(b[0], axis)) >= MIN_OFFSET]
    if not pairs:
        return None
    (start, start_names), (goal, goal_names) = pairs[int(random.integers(len(pairs)))]
    start_name, goal_name = pick(random, start_names), pick(random, goal_names)
    forward = getattr(goal, axis) > getattr(start, axis)
    where = ("above", "below")[forward] if not across else f"to the {words[forward]} of"
    return (
        f"If you went from the {start_name} to the {goal_name}, would you go {words[0]} or {words[1]}?",
        f"{words[forward].capitalize()}, because the {goal_name} is {where} the {start_name}.",
    )


def _far_away(scene: Scene, random: np.random.Generator) -> tuple[str, str] | None:
    size, how = (("small", "hardest"), ("large", "easiest"))[int(random.integers(2))]
    alone = [thing for thing in scene.objects if thing.size == size]
    if len(alone) != 1 or len(scene.objects) == 1 or not (names := references(scene, alone[0], without="size")):
        return None
    return (
        f"Which object would be {how} to see from far away, and why?",
        f"The {pick(random, names)}, because it is the only {size} object.",
    )


def _as_many(scene: Scene, random: np.random.Generator) -> tuple[str, str]:
    numbers = Counter(thing.shape for thing in scene.objects)
    pairs = [(few, many) for few in SHAPES for many in SHAPES if numbers[few] < numbers[many]]
    # most pairs name a shape that is not there; half of the time it is
    both_there = [pair for pair in pairs if numbers[pair[0]]]
    if both_there and random.random() < 0.5:
        pairs = both_there
    few, many = pairs[int(random.integers(len(pairs)))]
    are = "is one" if numbers[many] == 1 else f"are {COUNTS[numbers[many]]}"
    return (
        f"How many {plural(few)} must be added to have as many {plural(few)} as {plural(many)}?",
        f"{COUNTS[numbers[many] - numbers[few]].capitalize()}. "
        f"There {are} {many if numbers[many] == 1 else plural(many)} and {_number_of(numbers[few], few)}.",
    )


def _painter(scene: Scene, random: np.random.Generator) -> tuple[str, str]:
    colours = list(dict.fromkeys(thing.colour for thing in in_reading_order(scene)))
    question = "Which colours would a painter need to paint the objects?"
    if len(colours) == 1:
        only = "the only object is" if len(scene.objects) == 1 else f"{_all(len(scene.objects))} objects are"
        return question, f"Only {colours[0]}, because {only} {colours[0]}."
    return question, f"{COUNTS[len(colours)].capitalize()} colours: {join(colours)}."


def _odd_one_out(scene: Scene, random: np.random.Generator) -> tuple[str, str] | None:
    attribute = pick(random, ("colour", "shape"))
    numbers = Counter(getattr(thing, attribute) for thing in scene.objects)
    if len(scene.objects) < 3 or sorted(numbers.values()) != [1, len(scene.objects) - 1]:
        return None
    (common, _), (rare, _) = numbers.most_common()
    odd, usual = (f"{rare} object", common) if attribute == "colour" else (rare, plural(common))
    return (
        f"Which object has another {attribute} than all the others?",
        f"The {odd}. All the other objects are {usual}.",
    )


def _all(number: int) -> str:
    return "both" if number == 2 else f"all {COUNTS[number]}"


def _number_of(number: int, noun: str) -> str:
    return f"{COUNTS[number]} {noun if number == 1 else plural(noun)}"


def _pick_referable(scene: Scene, random: np.random.Generator) -> tuple[SceneObject, str] | None:
    found = [(thing, names) for thing in scene.objects if (names := references(scene, thing))]
    if not found:
        return None
    thing, names = found[int(random.integers(len(found)))]
    return thing, pick(random, names)


_FORMS: tuple[_Form, ...] = (_take_away, _paint, _turn, _walk, _far_away, _as_many, _painter, _odd_one_out)
