from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest

from edge_llava.scenes.questions import KINDS, Question, ask, normalize_answer
from edge_llava.scenes.scene import Scene, SceneObject

# form: how many answers it has, and the largest share that one of them may have
LIMITS = {
    "existence shape": (2, 0.54),
    "existence colour": (2, 0.54),
    "existence both": (2, 0.54),
    "colour": (6, 0.20),
    "shape": (6, 0.20),
    "count all": (5, 0.25),
    "count some": (6, 0.40),
    "size": (2, 0.60),
    "relation left": (2, 0.56),
    "relation right": (2, 0.56),
    "relation above": (2, 0.56),
    "relation below": (2, 0.56),
    "relation left or right": (2, 0.55),
    "relation above or below": (2, 0.55),
    "comparison more": (2, 0.54),
    "comparison same colour": (2, 0.58),
    "comparison same shape": (2, 0.58),
}


@pytest.fixture(scope="module")
def asked(scenes) -> list[tuple[Scene, Question]]:
    """Every kind, put to every scene twice."""
    found = []
    for index, scene in enumerate(scenes):
        random = np.random.default_rng([7, index])
        for kind in (*KINDS, *KINDS):
            question = ask(scene, kind, random)
            if question is not None:
                assert question.kind == kind
                assert question.form.split()[0] == kind
                found.append((scene, question))
    return found


def test_seven_kinds():
    assert KINDS == ("existence", "colour", "shape", "count", "size", "relation", "comparison")


def test_every_answer_is_right(asked, solve):
    """Answers are recomputed from the question's text and the scene's facts; names must fit exactly one object."""
    wrong = [(q.text, q.answer, solve(scene, q.text)) for scene, q in asked if solve(scene, q.text) != q.answer]
    assert wrong == []
    counts = Counter(question.kind for _, question in asked)
    assert set(counts) == set(KINDS)
    assert min(counts.values()) > 3000


def test_the_solver_can_find_fault(asked, solve):
    """Questions put to another scene: the answers must not all be right there."""
    strangers = [scene for scene, _ in asked[1000:]]
    right = [solve(other, q.text) == q.answer for other, (_, q) in zip(strangers, asked, strict=False)]
    assert 0.1 < np.mean(right) < 0.4


def test_same_random_same_question(scenes):
    for kind in KINDS:
        for scene in scenes[:50]:
            first, again = (ask(scene, kind, np.random.default_rng(5)) for _ in range(2))
            assert first == again


def test_guessing_does_not_help(asked):
    """The commonest answer to each form of question is right about as often as an unbiased choice would be."""
    answers = defaultdict(Counter)
    for _, question in asked:
        answers[question.form][normalize_answer(question.answer)] += 1
    assert set(answers) == {*LIMITS, "comparison larger", "comparison smaller"}
    for form, (n_answers, limit) in LIMITS.items():
        counts = answers[form]
        assert len(counts) == n_answers, form
        assert max(counts.values()) / counts.total() < limit, (form, counts)


def test_the_one_named_first_is_as_often_the_larger(asked):
    for word in ("larger", "smaller"):
        texts = [(q.text, q.answer) for _, q in asked if q.form == f"comparison {word}"]
        first = [text.startswith(f"Which is {word}, {answer[:1].lower()}{answer[1:-1]} or ") for text, answer in texts]
        assert len(first) > 200
        assert 0.4 < np.mean(first) < 0.6


@pytest.mark.parametrize("text", ["A star.", "a star", "  A STAR . ", "a Star.\n", "A star.."])
def test_normalized_answers_ignore_case_blanks_and_the_full_stop(text):
    assert normalize_answer(text) == "a star"


def test_normalized_answers_keep_what_differs():
    assert len({normalize_answer(text) for text in ("A star.", "Star.", "The star.", "A star, I think.", "")}) == 5


def test_a_lonely_object_allows_no_relation():
    lonely = Scene(0, (SceneObject("star", "red", "small", 0.5, 0.5, 0.1, 0.0),))
    for seed in range(20):
        assert ask(lonely, "relation", np.random.default_rng(seed)) is None


def test_what_cannot_be_named_is_not_asked_about():
    """Of twins nothing can be asked; they can be counted."""
    twin = SceneObject("star", "red", "small", 0.2, 0.2, 0.1, 0.0)
    scene = Scene(0, (twin, replace(twin, x=0.8)))
    for seed in range(20):
        random = np.random.default_rng(seed)
        assert [ask(scene, kind, random) for kind in ("colour", "shape", "size", "relation")] == [None] * 4
        question = ask(scene, "count", random)
        assert question is not None
        assert question.answer in ("Two.", "None.")


def test_compared_numbers_differ(asked, solve):
    """A tie has an answer too, but one that only a very careful reader of "more" would give."""
    compared = [
        (scene, q.text[len("Are there more ") : -1].split(" than "))
        for scene, q in asked
        if q.form == "comparison more"
    ]
    assert len(compared) > 1000
    for scene, names in compared:
        one, other = (solve(scene, f"How many {name} are there?") for name in names)
        assert one != other
