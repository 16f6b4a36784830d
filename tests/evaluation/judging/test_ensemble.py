"""ScienceQA's ensembles: the golden case, and servers that answer and judge."""

from __future__ import annotations

import json

import pytest

from edge_llava.errors import DataError
from edge_llava.evaluation.benchmarks.registry import read_benchmark
from edge_llava.evaluation.judging.ensemble import decide, ensemble_figures, first_of, judge_question
from edge_llava.evaluation.judging.ensemble_run import ask_each, estimate, judge_questions, kept_texts, other_questions

SAYS = "The answer is {}."
# ours, the other's, the judge's of six problems whose answer is B; "?" cannot be read, "" was not asked.
GOLDEN = [("B", "B", ""), ("B", "A", "B"), ("C", "B", "C"), ("B", "?", "?"), ("A", "?", "B"), ("B", "C", "D")]


@pytest.fixture
def scienceqa(tmp_path):
    """Six problems without an image, and two solved ones of another split."""
    problem = {
        "question": "Which?", "choices": ["x", "y", "z"], "answer": 1, "hint": "H.", "lecture": "L.", "solution": "S.",
        "image": None, "subject": "natural science", "grade": "grade2", "topic": "t",
    }  # fmt: skip
    problems = {str(n): problem | {"question": f"Which {n}?"} for n in (1, 2, 3, 4, 5, 6, 6493, 16241)}
    (tmp_path / "problems.json").write_text(json.dumps(problems))
    (tmp_path / "pid_splits.json").write_text(json.dumps({"test": list("123456"), "train": ["6493", "16241"]}))
    return tmp_path


@pytest.fixture
def benchmark(scienceqa):
    return read_benchmark("scienceqa", [scienceqa])


def texts(column):
    letters = {str(n): row[column] for n, row in enumerate(GOLDEN, 1) if row[column]}
    return {id_: "I do not know" if letter == "?" else SAYS.format(letter) for id_, letter in letters.items()}


def test_the_golden_case(benchmark):
    from dataclasses import replace

    said = texts(2)
    decisions = [replace(each, judge=said.get(each.item.key)) for each in decide(benchmark.items, texts(0), texts(1))]
    assert [each.is_asked for each in decisions] == [False, True, True, True, True, True]
    assert [each.complement[14] for each in decisions] == list("BABBAC")
    found = {figure.name: figure for figure in ensemble_figures(benchmark, decisions, with_judge=True)}
    right = {
        name: round(6 * found[name].value / 100) for name in ("judge", "complement", "ours", "other", "either right")
    }
    assert right == {"judge": 4, "complement": 3, "ours": 4, "other": 2, "either right": 5}
    counts = {name: found[name].value for name in ("the two disagree", "judged right", "judged wrong", "left to us")}
    assert counts == {"the two disagree": 5, "judged right": 2, "judged wrong": 2, "left to us": 1}
    assert found["judge"].is_main
    assert found["judge, NAT"].value == found["judge"].value


def test_what_the_other_model_is_asked(scienceqa):
    (question,) = other_questions(scienceqa, ["3"], ["6493", "16241"]).values()
    roles = [message["role"] for message in question.messages]
    assert roles == ["system", "user", "assistant", "user", "assistant", "user"]
    assert question.messages[1]["content"] == ("Can you explain Which 6493?\nContext: H.\nOptions: (A) x (B) y (C) z?")
    assert question.messages[2]["content"] == "The answer is B. BECAUSE: L. S."
    assert question.messages[5]["content"] == "Can you explain Which 3?\nContext: H.\nOptions: (A) x (B) y (C) z?"
    assert (question.temperature, question.max_tokens) == (0.0, 512)
    with pytest.raises(DataError, match="7 is missing"):
        other_questions(scienceqa, ["3"], ["7"])


def test_answers_are_named_neutrally_and_take_turns(benchmark):
    decisions = decide(benchmark.items, texts(0), texts(1))
    places = {first_of(each) for each in decisions}
    assert places == {"ours", "other"}
    for each in decisions:
        content = judge_question(each).messages[1]["content"]
        assert ("ours" in content, "other model" in content) == (False, False)
        first, second = (each.ours, each.other) if first_of(each) == "ours" else (each.other, each.ours)
        assert f"[Answer 1]\n{first}\n\n[Answer 2]\n{second}\n\n" in content


def test_the_judge_is_not_asked_for_the_letter_alone(benchmark):
    decision = decide(benchmark.items, texts(0), texts(1))[1]
    assert decision.item.text.endswith("letter from the given choices directly.")
    assert "directly" not in judge_question(decision).messages[1]["content"]


def test_a_server_judges_where_the_two_differ(benchmark, server, replies):
    server.behave = lambda request, index: server.say("Think. The answer is B.\n")
    decisions = decide(benchmark.items, texts(0), texts(1))
    questions = judge_questions(decisions)
    assert set(questions) == set("23456")
    assert estimate(questions, replies).n_requests == 5
    for _ in range(2):
        ask_each("asking", questions, replies, 2)
        assert kept_texts(questions, replies) == dict.fromkeys("23456", "Think. The answer is B.")
    assert len(server.requests) == 5
    assert estimate(questions, replies).n_requests == 0


def test_a_dead_server_is_given_up(benchmark, server, replies):
    server.behave = lambda request, index: server.say("B") if index == 0 else server.send("", 503)
    questions = judge_questions(decide(benchmark.items, texts(0), texts(1)))
    with pytest.raises(DataError, match="3 questions in a row got no reply: status 503"):
        ask_each("asking", questions, replies, 1)
    assert list(kept_texts(questions, replies).values()) == ["B"]
    assert estimate(questions, replies).n_requests == 4
