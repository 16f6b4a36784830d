"""ScienceQA: every published form of its problems, letters, categories and result files."""

from __future__ import annotations

import dataclasses
import json

import pytest

from edge_llava.errors import DataError
from edge_llava.evaluation.benchmarks.answers import Answer, join_answers
from edge_llava.evaluation.benchmarks.scienceqa import ScienceQa, read_results
from edge_llava.evaluation.benchmarks.scienceqa_problem import Problem, ask, read_letter, read_problems, tell
from edge_llava.evaluation.benchmarks.scoring import score

FULL = Problem(
    "7", "Which planet  is shown?", ("Mars", "Venus", "Io"), 1, "", "Planets orbit stars.\nMoons orbit planets.",
    "Io is a moon.  Mars is red.", "image.png", "test", {},
)  # fmt: skip
BARE = dataclasses.replace(FULL, hint="Look at the picture.", lecture="", solution="", image=None)
LECTURE = "Planets orbit stars.\nMoons orbit planets."


@pytest.mark.parametrize(
    ("problem", "form", "text"),
    [
        (FULL, "QCM-A", "Which planet is shown?\nContext: N/A\nOptions: (A) Mars (B) Venus (C) Io"),
        (FULL, "CQM-A", "Context: N/A\nQuestion: Which planet is shown?\nOptions: (A) Mars (B) Venus (C) Io"),
        (
            FULL,
            "QCLM-A",
            f"Which planet is shown?\nContext: N/A\nBECAUSE: {LECTURE}\nOptions: (A) Mars (B) Venus (C) Io",
        ),
        (BARE, "QCMLE-A", "Which planet is shown?\nContext: Look at the picture.\nOptions: (A) Mars (B) Venus (C) Io"),
        (
            FULL,
            "letter",
            "Which planet is shown?\nA. Mars\nB. Venus\nC. Io\n"
            "Answer with the option's letter from the given choices directly.",
        ),
    ],
)
def test_what_is_asked(problem, form, text):
    assert ask(problem, form) == text


def test_a_hint_stands_before_the_question():
    assert ask(BARE, "letter").startswith("Context: Look at the picture.\nWhich planet")


@pytest.mark.parametrize(
    ("problem", "output", "text"),
    [
        (FULL, "LEA", f"{LECTURE} Io is a moon. Mars is red. The answer is B."),
        (FULL, "LEPA", f"LECTURE: {LECTURE}\nSOLUTION: Io is a moon. Mars is red.\n###\nANSWER: B."),
        (FULL, "AL", "The answer is B. BECAUSE: Io is a moon. Mars is red."),
        (FULL, "AE", f"The answer is B. BECAUSE: {LECTURE}"),
        (BARE, "LEA", " The answer is B."),
        (BARE, "ELA", " The answer is B."),
        (BARE, "EA", "The answer is B."),
        (BARE, "ALE", "The answer is B."),
        (BARE, "AE", "The answer is B."),
        (BARE, "LEPA", "###\nANSWER: B."),
    ],
)
def test_what_is_taught(problem, output, text):
    assert tell(problem, f"QCM-{output}") == text


def test_the_letter_alone_is_taught():
    assert tell(FULL, "letter") == "B"


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", 1), ("B. Venus", 1), ("B.", None), ("b", None), ("B) Venus", None), ("The answer is C.", 2),
        ("The answer is C", None), ("Because. The answer is A!", 0), ("The answer is A. The answer is A.", None),
        ("The answer is D.", 3), ("E", 4), ("", None), ("E. x", 4), ("AB", None),
    ],
)  # fmt: skip
def test_letters(text, letter):
    assert read_letter(text) == letter


@pytest.fixture
def directory(tmp_path):
    """Six problems of the categories, whose right answer is B."""
    rows = [
        ("natural science", "grade2", "h", "i.png"),
        ("natural science", "grade7", "", "i.png"),
        ("social science", "grade4", "", "i.png"),
        ("language science", "grade6", "h", None),
        ("language science", "grade11", "", None),
        ("language science", "grade3", "", None),
    ]
    problems = {
        str(n): {
            "question": "What?", "choices": ["a", "b", "c"], "answer": 1, "hint": hint, "image": image, "task": "t",
            "grade": grade, "subject": subject, "topic": "x", "lecture": "", "solution": "", "split": "test",
        }
        for n, (subject, grade, hint, image) in enumerate(rows)
    }  # fmt: skip
    (tmp_path / "problems.json").write_text(json.dumps(problems))
    (tmp_path / "pid_splits.json").write_text(json.dumps({"test": list(problems), "train": []}))
    return tmp_path


def test_categories(directory):
    benchmark = ScienceQa.read([directory])
    texts = dict(zip("012345", ["B", "A", "The answer is B.", "B. b", "who knows", "B"], strict=True))
    scores = score(benchmark, texts)
    assert {figure.name: (round(figure.value * figure.n / 100), figure.n) for figure in scores.figures} == {
        "Avg": (4, 6), "NAT": (1, 2), "SOC": (1, 1), "LAN": (2, 3), "TXT": (2, 2), "IMG": (2, 3), "NO": (1, 2),
        "G1-6": (4, 4), "G7-12": (0, 2),
    }  # fmt: skip
    assert scores.figures[0].is_main
    assert scores.figures[0].value == pytest.approx(66.67, abs=0.01)
    assert (scores.n_missing, scores.n_unreadable) == (0, 1)


def test_what_is_missing_is_wrong(directory):
    scores = score(ScienceQa.read([directory]), {"0": "B"})
    assert scores.n_missing == 5
    assert scores.figures[0].value == pytest.approx(100 / 6)


def test_a_letter_beyond_the_choices_is_wrong(directory):
    benchmark = ScienceQa.read([directory])
    mark = benchmark.mark(benchmark.items[0], "The answer is D.")
    assert (mark.points, mark.is_unreadable) == (0, False)
    assert mark.reading == "D, beyond the choices"


def test_llavas_question_file_has_the_same_labels(directory, tmp_path):
    problems = read_problems(directory, "test")
    records = [
        {
            "id": problem.id,
            **({} if problem.image is None else {"image": problem.image_place}),
            "conversations": [
                {"from": "human", "value": f"{'<image>' * (problem.image is not None)}\n{letters}".strip()},
                {"from": "gpt", "value": "B"},
            ],
        }
        for problem in problems
        for letters in [ask(problem, "letter").rpartition("\n")[0]]
    ]
    path = tmp_path / "CQM-A.json"
    path.write_text(json.dumps(records))
    ours, theirs = ScienceQa.read([directory]), ScienceQa.read([path])
    for a, b in zip(ours.items, theirs.items, strict=True):
        assert (a.question_id, a.text, a.image, a.label) == (b.question_id, b.text, b.image, b.label)
        assert ("hint" in a.groups) == ("hint" in b.groups)


def test_result_files(directory, tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"results": {"0": 1, "1": -1}, "outputs": {"0": "?", "1": "The answer is B."}}))
    assert read_results(path) == [Answer("0", "", "B"), Answer("1", "", "")]
    assert read_results(path, reread=True) == [Answer("0", "", "?"), Answer("1", "", "The answer is B.")]
    path.write_text(json.dumps({"results": {}}))
    with pytest.raises(DataError, match="no texts"):
        read_results(path, reread=True)
    assert read_results(tmp_path / "answers.jsonl") is None


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"choices": ["a"]}, "1: choices are not 2 to 5 texts"),
        ({"answer": 3}, "1: answer is not the index of a choice"),
        ({"answer": True}, "1: answer is not the index of a choice"),
        ({"question": 5}, "1: question is not text"),
        ({"image": 5}, "1: image is neither a file name nor null"),
    ],
)
def test_wrong_problems(directory, change, fault):
    problems = json.loads((directory / "problems.json").read_text())
    problems["1"] |= change
    del problems["4"]
    (directory / "problems.json").write_text(json.dumps(problems))
    with pytest.raises(DataError) as caught:
        ScienceQa.read([directory])
    assert fault in str(caught.value)
    assert "4 is missing" in str(caught.value)


def test_an_unknown_split(directory):
    with pytest.raises(DataError, match="has no split 'val', only test, train"):
        ScienceQa.read([directory], split="val")


def test_answers_to_another_form_are_refused(directory):
    benchmark = ScienceQa.read([directory])
    asked = [Answer(str(n), f"<image>\n{ask(FULL, 'QCM-LEA')}", "B") for n in range(6)]
    with pytest.raises(DataError, match=r"asked in other words: 6 \(0: "):
        join_answers(benchmark, asked, "answers.jsonl")
    fitting = [Answer(item.question_id, f"<image>\n{item.text}", " B ") for item in benchmark.items]
    assert set(join_answers(benchmark, fitting, "answers.jsonl").values()) == {"B"}
