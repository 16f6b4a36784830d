from __future__ import annotations

from itertools import islice

import pytest

from edge_llava.evaluation.exam import exchange, guess, set_exam
from edge_llava.evaluation.share import Share
from edge_llava.scenes.questions import KINDS, Question
from edge_llava.scenes.scene import sample_scenes
from edge_llava.scenes.sentences import describe


def asked(form, *answers, text="?"):
    return [Question(form.split()[0], form, text, answer) for answer in answers]


def test_an_exam_is_about_the_first_held_out_scenes_of_its_seed():
    exam = set_exam(3, 40)
    assert [sheet.scene for sheet in exam] == list(islice(sample_scenes("held-out", 3), 40))
    assert [sheet.picture for sheet in exam] == list(range(40))
    assert {sheet.scene.split for sheet in exam} == {"held-out"}


def test_same_seed_same_exam_and_a_longer_one_begins_with_it():
    assert set_exam(3, 20) == set_exam(3, 40)[:20]
    texts = [[q.text for sheet in set_exam(seed, 20) for q in sheet.questions] for seed in (3, 4)]
    assert texts[0] != texts[1]


def test_every_picture_gets_one_question_of_every_kind_it_allows():
    sheets = set_exam(0, 200)
    for sheet in sheets:
        kinds = [question.kind for question in sheet.questions]
        assert kinds == [kind for kind in KINDS if kind in kinds]
        assert {"existence", "count"} <= set(kinds)
        assert ("relation" in kinds) <= (len(sheet.scene.objects) > 1)
        assert sheet.description.answer == describe(sheet.scene)
    n_of = {kind: sum(kind in [q.kind for q in sheet.questions] for sheet in sheets) for kind in KINDS}
    assert min(n_of.values()) > 80


@pytest.mark.parametrize("n", [2, 3, 4, 10, 1000])
def test_exchanged_sheets_are_a_permutation_without_a_fixed_point(n):
    for seed in range(20):
        sheets = exchange(n, seed)
        assert sorted(sheets) == list(range(n))
        assert all(sheet != picture for picture, sheet in enumerate(sheets))


def test_exchange_depends_on_the_seed_alone():
    assert exchange(30, 1) == exchange(30, 1) != exchange(30, 2)
    assert exchange(1, 0) == []


def test_a_guess_is_the_commonest_answer_to_each_form():
    questions = asked("existence", "Yes.", "yes", "No.") + asked("colour", "Red.", "Blue.", "Cyan.", "Red.")
    assert guess(questions) == Share(2 + 2, 7)
    assert guess([*asked("relation left", "Yes.", "No."), *asked("relation below", "No.", "No.")]) == Share(3, 4)
    assert guess([]) == Share(0, 0)


def test_of_two_named_things_a_guess_takes_the_first_or_the_second():
    texts = (
        ("Which is larger, the red star or the small object?", "The red star."),
        ("Which is larger, the blue ring or the cross?", "The blue ring."),
        ("Which is larger, the star or the ring?", "The ring."),
    )
    questions = [Question("comparison", "comparison larger", text, answer) for text, answer in texts]
    assert guess(questions) == Share(2, 3)


def test_guessing_rates_of_a_large_exam():
    questions = [question for sheet in set_exam(0, 1000) for question in sheet.questions]
    expected = {
        "existence": 0.5,
        "colour": 1 / 6,
        "shape": 1 / 6,
        "count": 0.3,
        "size": 0.57,
        "relation": 0.5,
        "comparison": 0.5,
    }
    for kind, rate in expected.items():
        value = guess(question for question in questions if question.kind == kind).value
        assert value == pytest.approx(rate, abs=0.06), kind
    assert guess(questions).value == pytest.approx(0.37, abs=0.03)
