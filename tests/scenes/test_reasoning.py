"""Reasoning about scenes: every answer is found again from the objects alone, by rules written a second time."""

from __future__ import annotations

import re
from itertools import islice

import numpy as np
import pytest

from edge_llava.scenes.reasoning import reason
from edge_llava.scenes.scene import COLOURS, SHAPES, SIZES, Scene, SceneObject, sample_scenes

NUMBERS = ("None", "One", "Two", "Three", "Four", "Five")
WORDS = ("no", "one", "two", "three", "four", "five")
SCENES = list(islice(sample_scenes("train", 11), 400))


def one(scene: Scene, name: str) -> SceneObject:
    """The only object that a name fits."""
    words = set(name.split()) - {"object"}
    assert words <= {*COLOURS, *SHAPES, *SIZES}
    (found,) = (o for o in scene.objects if words <= {o.size, o.colour, o.shape})
    return found


def belongs(thing: SceneObject, group: str) -> bool:
    """Whether "red objects" or "crosses" includes a thing."""
    if group.endswith(" objects"):
        return thing.colour == group.removesuffix(" objects")
    return group in (f"{thing.shape}s", f"{thing.shape}es")


def third(thing: SceneObject, flip_x: bool, flip_y: bool) -> str:
    x, y = (1 - thing.x if flip_x else thing.x), (1 - thing.y if flip_y else thing.y)
    column = "left" if x < 1 / 3 else "right" if x >= 2 / 3 else ""
    row = "top" if y < 1 / 3 else "bottom" if y >= 2 / 3 else ""
    if not row:
        return f"on the {column}" if column else "in the middle"
    return f"at the {row} {column}".strip()


def check_taken_away(scene: Scene, match: re.Match[str], answer: str) -> None:
    total, gone = len(scene.objects), sum(belongs(o, match[1]) for o in scene.objects)
    assert gone > 0
    assert answer.startswith(f"{NUMBERS[total - gone]} would be left. ")
    if gone < total:
        (there, share) = re.findall(rf"\b({'|'.join(WORDS)})\b (?:objects|of them)", answer)
        assert (there, share) == (WORDS[total], WORDS[gone])
    elif total > 1:
        assert re.search(r"(Both|All \w+) objects are", answer)[0] == (  # type: ignore[index]
            "Both objects are" if total == 2 else f"All {WORDS[total]} objects are"
        )


def check_painted(scene: Scene, match: re.Match[str], answer: str) -> None:
    old, new, same = match.groups()
    n_old, n_new = (sum(o.colour == colour for o in scene.objects) for colour in (old, new))
    assert (new, n_old > 0) == (same, True)
    head, tail = answer.split(". Now ")
    assert head == NUMBERS[n_old + n_new]
    assert re.findall(r"\w+", tail)[0] == WORDS[n_old]
    assert re.search(r"and (\w+) (is|are) ", tail)[1] == (WORDS[n_new] if n_new else "none")  # type: ignore[index]
    assert old in tail
    assert tail.endswith(f" {new}.")


def check_turned(scene: Scene, match: re.Match[str], answer: str) -> None:
    thing = one(scene, match[2])
    before = third(thing, False, False)
    after = third(thing, True, match[1] == "turned upside down")
    same = f"It would still be {after}."
    assert answer == (same if before == after else f"It would be {after}. Now it is {before}.")


def check_way(scene: Scene, match: re.Match[str], answer: str) -> None:
    start, goal = one(scene, match[1]), one(scene, match[2])
    if match[3] == "left or right":
        word, where = ("Right", "to the right of") if goal.x > start.x else ("Left", "to the left of")
        offset = abs(goal.x - start.x)
    else:
        word, where = ("Down", "below") if goal.y > start.y else ("Up", "above")
        offset = abs(goal.y - start.y)
    assert offset >= 0.12
    assert answer == f"{word}, because the {match[2]} is {where} the {match[1]}."


def check_far(scene: Scene, match: re.Match[str], answer: str) -> None:
    size = {"hardest": "small", "easiest": "large"}[match[1]]
    (thing,) = (o for o in scene.objects if o.size == size)
    name = re.fullmatch(rf"The (.+), because it is the only {size} object\.", answer)[1]  # type: ignore[index]
    assert one(scene, name) is thing
    assert len(scene.objects) > 1


def check_as_many(scene: Scene, match: re.Match[str], answer: str) -> None:
    few, again, many = match.groups()
    n_few, n_many = (sum(belongs(o, group) for o in scene.objects) for group in (few, many))
    assert few == again
    assert answer.startswith(f"{NUMBERS[n_many - n_few]}. There {'is' if n_many == 1 else 'are'} {WORDS[n_many]} ")
    assert re.search(r"and (\w+) ", answer)[1] == WORDS[n_few]  # type: ignore[index]


def check_painter(scene: Scene, match: re.Match[str], answer: str) -> None:
    colours = {o.colour for o in scene.objects}
    named = re.findall("|".join(COLOURS), answer)
    assert set(named) == colours
    if len(colours) == 1:
        assert answer.startswith(f"Only {named[0]}, because ")
    else:
        assert answer.startswith(f"{NUMBERS[len(colours)]} colours: ")
        assert len(named) == len(colours)


def check_odd(scene: Scene, match: re.Match[str], answer: str) -> None:
    values = [getattr(o, match[1]) for o in scene.objects]
    (odd,) = (value for value in values if values.count(value) == 1)
    (usual,) = set(values) - {odd}
    many = {"colour": usual, "shape": "crosses" if usual == "cross" else f"{usual}s"}[match[1]]
    assert len(values) > 2
    assert answer == f"The {odd}{' object' * (match[1] == 'colour')}. All the other objects are {many}."


CHECKS = {
    r"If all the (.+) were taken away, how many objects would be left\?": check_taken_away,
    r"If every (\w+) object were painted (\w+), how many (\w+) objects would there be\?": check_painted,
    r"If the picture were (turned upside down|seen in a mirror), where would the (.+) be\?": check_turned,
    r"If you went from the (.+) to the (.+), would you go (left or right|up or down)\?": check_way,
    r"Which object would be (hardest|easiest) to see from far away, and why\?": check_far,
    r"How many (\w+) must be added to have as many (\w+) as (\w+)\?": check_as_many,
    r"Which colours would a painter need to paint the objects\?": check_painter,
    r"Which object has another (colour|shape) than all the others\?": check_odd,
}


@pytest.fixture(scope="module")
def asked() -> list[tuple[Scene, str, str]]:
    random = np.random.default_rng(2)
    return [(scene, *reason(scene, random)) for scene in SCENES for _ in range(6)]


@pytest.mark.parametrize("pattern", CHECKS)
def test_every_answer_is_right(pattern: str, asked: list[tuple[Scene, str, str]]) -> None:
    n_seen = 0
    for scene, question, answer in asked:
        match = re.fullmatch(pattern, question)
        if match:
            n_seen += 1
            CHECKS[pattern](scene, match, answer)
    assert n_seen > 40


def test_every_question_is_of_a_known_form_and_every_answer_short() -> None:
    random = np.random.default_rng(3)
    words = set()
    for scene in SCENES:
        question, answer = reason(scene, random)
        assert sum(bool(re.fullmatch(pattern, question)) for pattern in CHECKS) == 1
        assert 1 <= answer.count(".") <= 3
        assert answer.endswith(".")
        words |= set(re.findall(r"[a-z]+", f"{question} {answer}".lower()))
    assert len(words) < 140


def test_same_seed_same_question() -> None:
    def ask(seed: int) -> list[tuple[str, str]]:
        random = np.random.default_rng(seed)
        return [reason(scene, random) for scene in SCENES[:50]]

    assert ask(0) == ask(0) != ask(1)


@pytest.mark.parametrize("taken", [True, False])
def test_singular_and_plural(taken: bool) -> None:
    """Two red crosses and nothing else: every form speaks of them as English does."""
    cross = SceneObject("cross", "red", "small", 0.2, 0.2, 0.1, 0.0)
    two = Scene(0, (cross, SceneObject("cross", "red", "large", 0.8, 0.2, 0.17, 0.0)))
    random = np.random.default_rng(0)
    found = dict(reason(two if taken else Scene(0, (cross,)), random) for _ in range(400))
    if taken:
        assert found["If all the crosses were taken away, how many objects would be left?"] == (
            "None would be left. Both objects are crosses."
        )
        assert found["Which colours would a painter need to paint the objects?"] == (
            "Only red, because both objects are red."
        )
        assert found["If every red object were painted blue, how many blue objects would there be?"] == (
            "Two. Now two objects are red and none is blue."
        )
        assert "Which object would be hardest to see from far away, and why?" not in found, "no name without its size"
    else:
        assert found["If all the crosses were taken away, how many objects would be left?"] == (
            "None would be left. There is one object and it is a cross."
        )
        assert found["How many stars must be added to have as many stars as crosses?"] == (
            "One. There is one cross and no stars."
        )
