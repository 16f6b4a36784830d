from __future__ import annotations

import json
import re

import pytest

from edge_llava.evaluation.answering import ExamReply, take_exam
from edge_llava.evaluation.exam import DESCRIPTION, Sheet, exchange, set_exam
from edge_llava.evaluation.scene_scores import evaluate_scenes, score
from edge_llava.evaluation.share import Share
from edge_llava.home.progress import ProgressEvent
from edge_llava.scenes.questions import KINDS, Question
from edge_llava.scenes.scene import Scene, SceneObject


def thing(phrase, x):
    size, colour, shape = phrase.split()
    return SceneObject(shape, colour, size, x, 0.5, 0.1, 0.0)


@pytest.fixture(scope="module")
def seeing(oracle):
    return evaluate_scenes(oracle, seed=0, n=400)


def test_a_seeing_answerer_gets_everything_right(seeing):
    assert all(share.value == 1.0 for share in seeing.accuracy.values())
    assert (seeing.precision.value, seeing.recall.value) == (1.0, 1.0)
    assert seeing.precision.n == seeing.recall.n == sum(len(sheet.scene.objects) for sheet in set_exam(0, 400))
    assert seeing.wrong == ()


def test_a_seeing_answerer_drops_to_chance_when_pictures_are_exchanged(seeing):
    figures = seeing.to_dict()
    assert figures["overall"] == 1.0
    assert 0.1 < figures["shuffled_overall"] < figures["guessing_overall"] < 0.42
    assert {kind: share.n for kind, share in seeing.shuffled.items()} == {k: s.n for k, s in seeing.accuracy.items()}


def test_a_blind_answerer_gets_the_guessing_rate_both_times(blind):
    scores = evaluate_scenes(blind, seed=1, n=400)
    for kind in KINDS:
        assert scores.accuracy[kind] == scores.shuffled[kind], kind
        assert scores.guessing[kind].value - 0.1 < scores.accuracy[kind].value <= scores.guessing[kind].value, kind
    assert (scores.precision, scores.recall.n_right) == (Share(0, 0), 0)


def test_figures_are_json(seeing):
    figures = json.loads(json.dumps(seeing.to_dict()))
    assert set(figures) == {
        *("accuracy", "overall", "shuffled", "shuffled_overall", "guessing", "guessing_overall"),
        *("description", "n", "seconds"),
    }
    assert list(figures["accuracy"]) == list(KINDS)
    assert all(set(value) == {"value", "n", "low", "high"} for value in figures["accuracy"].values())
    assert figures["description"] == {"precision": 1.0, "recall": 1.0, "n": 400}
    assert figures["accuracy"]["count"]["high"] == 1.0
    assert figures["accuracy"]["count"]["low"] == pytest.approx(1 / (1 + 1.959963985**2 / 400))
    assert figures["seconds"] > 0


def test_overall_counts_questions_not_kinds():
    sheet = Sheet(0, Scene(0, (thing("small red star", 0.5),)), ())
    replies = [
        ExamReply(sheet, 0, Question("count", "count all", "How many?", "One."), text) for text in ("one", "1", "two")
    ]
    replies += [ExamReply(sheet, 0, Question("size", "size", "What size?", "Small."), "Small.")]
    scores = score(replies, 2.5)
    assert scores.accuracy["count"] == Share(1, 3)
    assert scores.accuracy["size"] == Share(1, 1)
    assert scores.accuracy["shape"] == Share(0, 0)
    figures = scores.to_dict()
    assert figures["overall"] == 2 / 4
    assert figures["accuracy"]["shape"] == {"value": None, "n": 0, "low": 0.0, "high": 1.0}
    assert figures["guessing_overall"] == 1.0
    assert figures["seconds"] == 2.5
    assert [reply.text for reply in scores.wrong] == ["1", "two"]


def test_descriptions_count_objects_over_all_pictures_and_twins_twice():
    twins = Sheet(0, Scene(0, (thing("small red star", 0.2), thing("small red star", 0.8))), ())
    ring = Sheet(1, Scene(1, (thing("large blue ring", 0.5),)), ())
    said = {
        0: "There is a small red star on the left.",
        1: "A large blue ring, a large blue ring and a large red ring.",
    }
    scores = score(
        [ExamReply(sheet, sheet.picture, sheet.description, said[sheet.picture]) for sheet in (twins, ring)], 0.0
    )
    assert scores.precision == Share(1 + 1, 1 + 3)
    assert scores.recall == Share(1 + 1, 2 + 1)
    assert [reply.question.kind for reply in scores.wrong] == [DESCRIPTION] * 2


def test_one_picture_has_no_other_to_be_exchanged_with(oracle):
    scores = evaluate_scenes(oracle, seed=0, n=1)
    figures = scores.to_dict()
    assert (scores.shuffled, figures["shuffled"], figures["shuffled_overall"]) == (None, None, None)
    assert figures["overall"] == 1.0


def test_every_picture_is_shown_once_and_asked_about_before_the_next(oracle):
    sheets, shown, events = set_exam(0, 6), [], []

    def look(scene):
        shown.append(scene.seed)
        return oracle(scene)

    replies = take_exam(sheets, exchange(6, 0), look, events.append)
    assert shown == [sheet.scene.seed for sheet in sheets]
    assert [reply.shown for reply in replies] == sorted(reply.shown for reply in replies)
    n_questions = sum(len(sheet.questions) for sheet in sheets)
    assert len(replies) == 2 * n_questions + len(sheets)
    assert sum(reply.is_check for reply in replies) == n_questions
    assert {(r.shown, r.sheet.picture) for r in replies if r.is_check} == set(enumerate(exchange(6, 0)))
    assert events == [ProgressEvent("asking about pictures", done, 6, "items") for done in range(1, 7)]


def test_only_descriptions_may_be_long():
    limits = {}

    def look(scene):
        def ask(question, max_tokens):
            limits.setdefault(max_tokens, set()).add(question)
            return ""

        return ask

    take_exam(set_exam(0, 20), [], look)
    (short, long) = sorted(limits)
    assert limits[long] == {"Describe the picture in detail."}
    assert all(re.fullmatch(r".*\?", question) for question in limits[short])
