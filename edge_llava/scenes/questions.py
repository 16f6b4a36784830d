"""Questions about a scene whose answers are known: seven kinds, sampled so that no kind can be guessed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from edge_llava.scenes.scene import COLOURS, MIN_OFFSET, SHAPES, Scene, SceneObject
from edge_llava.scenes.sentences import COUNTS, pick, plural, references


@dataclass(frozen=True)
class Question:
    """One question with its answer.

    Attributes:
        kind: One of KINDS.
        form: What is asked, regardless of wording and objects: "relation left"; guesses are counted per form.
        text: The question.
        answer: The answer: a word or a phrase, with a capital and a full stop.
    """

    kind: str
    form: str
    text: str
    answer: str


def ask(scene: Scene, kind: str, random: np.random.Generator) -> Question | None:
    """Makes a question of one kind.

    Args:
        scene: The scene to ask about.
        kind: One of KINDS.
        random: Source of the choice.

    Returns:
        The question; None if the scene allows none of this kind (a relation needs two objects).
    """
    return _ASKERS[kind](scene, random)


def normalize_answer(text: str) -> str:
    """Normalizes an answer for exact matching: lower case, without surrounding blanks and full stop."""
    return text.strip().rstrip(".").strip().lower()


def _existence(scene: Scene, random: np.random.Generator) -> Question:
    expected = bool(random.integers(2))
    level = pick(random, ("shape", "colour", "both", "both"))
    present = {_named(thing.colour, thing.shape, level) for thing in scene.objects}
    absent = {_named(colour, shape, level) for colour in COLOURS for shape in SHAPES} - present
    colours, shapes = {thing.colour for thing in scene.objects}, {thing.shape for thing in scene.objects}
    crossed = {_named(colour, shape, level) for colour in colours for shape in shapes} - present
    # half of the absent ones are made of a colour and a shape that are there, but not together
    candidates = present if expected else crossed if crossed and random.random() < 0.5 else absent
    what = pick(random, sorted(candidates))
    wording = pick(random, ("Is there a {}?", "Can you see a {}?", "Does the picture show a {}?"))
    return Question("existence", f"existence {level}", wording.format(what), _yes(expected))


def _colour(scene: Scene, random: np.random.Generator) -> Question | None:
    found = _pick_referable(scene, random, "colour")
    if found is None:
        return None
    thing, name = found
    wording = pick(random, ("What colour is the {}?", "What color is the {}?", "Which colour does the {} have?"))
    return Question("colour", "colour", wording.format(name), f"{thing.colour.capitalize()}.")


def _shape(scene: Scene, random: np.random.Generator) -> Question | None:
    found = _pick_referable(scene, random, "shape")
    if found is None:
        return None
    thing, name = found
    wording = pick(random, ("What shape is the {}?", "What is the shape of the {}?", "Which shape does the {} have?"))
    return Question("shape", "shape", wording.format(name), f"A {thing.shape}.")


def _count(scene: Scene, random: np.random.Generator) -> Question:
    if random.random() < 0.3:
        wording = pick(random, ("How many objects are there?", "How many objects are in the picture?"))
        return Question("count", "count all", wording, f"{COUNTS[len(scene.objects)].capitalize()}.")
    colours = Counter(thing.colour for thing in scene.objects)
    shapes = Counter(thing.shape for thing in scene.objects)
    numbers = {f"{colour} objects": colours[colour] for colour in COLOURS}
    numbers |= {plural(shape): shapes[shape] for shape in SHAPES}
    # each number that occurs is equally likely; otherwise nearly all answers would be none or one
    number = int(random.choice(sorted(set(numbers.values()))))
    what = pick(random, sorted(name for name, value in numbers.items() if value == number))
    wording = pick(random, ("How many {} are there?", "How many {} can you see?"))
    return Question(
        "count", "count some", wording.format(what), f"{COUNTS[number].capitalize()}." if number else "None."
    )


def _size(scene: Scene, random: np.random.Generator) -> Question | None:
    size = pick(random, ("small", "large"))
    found = _pick_referable(scene, random, "size", [thing for thing in scene.objects if thing.size == size])
    if found is None:
        return None
    wording = pick(random, ("Is the {} small or large?", "Is the {} large or small?", "What size is the {}?"))
    return Question("size", "size", wording.format(found[1]), f"{size.capitalize()}.")


def _relation(scene: Scene, random: np.random.Generator) -> Question | None:
    axis = pick(random, ("x", "y"))
    before, after = ("left", "right") if axis == "x" else ("above", "below")
    pair = _pick_pair(scene, random, lambda a, b: abs(getattr(a, axis) - getattr(b, axis)) >= MIN_OFFSET)
    if pair is None:
        return None
    (first, first_name), (second, second_name) = pair
    actual = before if getattr(first, axis) < getattr(second, axis) else after
    if random.random() < 0.5:
        asked = pick(random, (before, after))
        phrase = f"to the {asked} of" if axis == "x" else asked
        text = f"Is the {first_name} {phrase} the {second_name}?"
        return Question("relation", f"relation {asked}", text, _yes(asked == actual))
    choices = f"{before} or {after}" if random.random() < 0.5 else f"{after} or {before}"
    choices = f"{choices} of" if axis == "x" else choices
    text = f"Is the {first_name} {choices} the {second_name}?"
    return Question("relation", f"relation {before} or {after}", text, f"{actual.capitalize()}.")


def _comparison(scene: Scene, random: np.random.Generator) -> Question | None:
    return _COMPARISONS[int(random.integers(len(_COMPARISONS)))](scene, random)


def _which_is_larger(scene: Scene, random: np.random.Generator) -> Question | None:
    pair = _pick_pair(scene, random, lambda a, b: a.size != b.size, without="size")
    if pair is None:
        return None
    word = pick(random, ("larger", "smaller"))
    (first, first_name), (_, second_name) = pair
    wins = (first.size == "large") == (word == "larger")
    text = f"Which is {word}, the {first_name} or the {second_name}?"
    return Question("comparison", f"comparison {word}", text, f"The {first_name if wins else second_name}.")


def _are_there_more(scene: Scene, random: np.random.Generator) -> Question | None:
    expected = bool(random.integers(2))
    attribute = pick(random, ("colour", "shape"))
    numbers = Counter(getattr(thing, attribute) for thing in scene.objects)
    values = list(COLOURS if attribute == "colour" else SHAPES)
    # at least one of the two is there, and the counts differ: naming the rarer one first makes the answer "no"
    pairs = [
        (a, b) for a in values for b in values if numbers[a] != numbers[b] and (numbers[a] > numbers[b]) == expected
    ]
    a, b = pairs[int(random.integers(len(pairs)))]
    names = [f"{value} objects" if attribute == "colour" else plural(value) for value in (a, b)]
    return Question("comparison", "comparison more", f"Are there more {names[0]} than {names[1]}?", _yes(expected))


def _are_they_the_same(scene: Scene, random: np.random.Generator) -> Question | None:
    expected = bool(random.integers(2))
    attribute = pick(random, ("colour", "shape"))
    pair = _pick_pair(
        scene, random, lambda a, b: (getattr(a, attribute) == getattr(b, attribute)) == expected, without=attribute
    )
    if pair is None:
        return None
    text = f"Are the {pair[0][1]} and the {pair[1][1]} the same {attribute}?"
    return Question("comparison", f"comparison same {attribute}", text, _yes(expected))


def _pick_referable(
    scene: Scene, random: np.random.Generator, without: str, things: list[SceneObject] | None = None
) -> tuple[SceneObject, str] | None:
    found = [
        (thing, names) for thing in things or scene.objects if (names := references(scene, thing, without=without))
    ]
    if things == [] or not found:
        return None
    thing, names = found[int(random.integers(len(found)))]
    return thing, pick(random, names)


def _pick_pair(
    scene: Scene,
    random: np.random.Generator,
    fits: Callable[[SceneObject, SceneObject], bool],
    *,
    without: str = "",
) -> tuple[tuple[SceneObject, str], tuple[SceneObject, str]] | None:
    named = [(thing, names) for thing in scene.objects if (names := references(scene, thing, without=without))]
    pairs = [(a, b) for a in named for b in named if a is not b and fits(a[0], b[0])]
    if not pairs:
        return None
    first, second = pairs[int(random.integers(len(pairs)))]
    return (first[0], pick(random, first[1])), (second[0], pick(random, second[1]))


def _named(colour: str, shape: str, level: str) -> str:
    return {"shape": shape, "colour": f"{colour} object", "both": f"{colour} {shape}"}[level]


def _yes(value: bool) -> str:
    return "Yes." if value else "No."


_COMPARISONS = (_which_is_larger, _are_there_more, _are_they_the_same)
_ASKERS: Mapping[str, Callable[[Scene, np.random.Generator], Question | None]] = {
    "existence": _existence,
    "colour": _colour,
    "shape": _shape,
    "count": _count,
    "size": _size,
    "relation": _relation,
    "comparison": _comparison,
}
KINDS = tuple(_ASKERS)
