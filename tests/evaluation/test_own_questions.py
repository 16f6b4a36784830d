"""Questions of the user's own, and MMBench's images inside its file."""

from __future__ import annotations

import base64
import json

import pytest

from edge_llava.errors import DataError
from edge_llava.evaluation.benchmarks.registry import read_benchmark
from edge_llava.evaluation.benchmarks.scoring import score
from edge_llava.evaluation.run import find_missing_images

QUESTIONS = [
    {"question_id": 1, "image": "a.jpg", "text": "What?", "category": "x"},
    {"question_id": "2", "text": "Who?", "category": "y"},
]


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_with_answers(tmp_path):
    answers = [{"question_id": "1", "answer": "The two cats."}, {"question_id": 2, "answer": "nobody"}]
    paths = [write(tmp_path / "q.jsonl", QUESTIONS), write(tmp_path / "a.jsonl", answers)]
    benchmark = read_benchmark("questions", paths)
    figures = {figure.name: figure.value for figure in score(benchmark, {"1": "2 cats", "2": "me"}).figures}
    assert figures == {"exact match": 50, "category x": 100, "category y": 0}
    assert [item.image for item in benchmark.items] == ["a.jpg", None]
    assert [item.key for item in find_missing_images(benchmark, tmp_path)] == ["1"]


def test_without_answers(tmp_path):
    benchmark = read_benchmark("questions", [write(tmp_path / "q.jsonl", QUESTIONS)])
    scores = score(benchmark, {"1": "a cat"})
    assert (scores.figures, scores.n, scores.n_missing, scores.variant) == ((), 2, 1, "without answers")


def test_faults_are_told_at_once(tmp_path):
    questions = [*QUESTIONS, {"question_id": 1, "text": "Again?"}, {"question_id": True, "text": "x"}, {"text": 5}]
    answers = write(tmp_path / "a.jsonl", [{"question_id": 1, "answer": "x"}, {"question_id": 3}])
    with pytest.raises(DataError) as caught:
        read_benchmark("questions", [write(tmp_path / "q.jsonl", questions), answers])
    for fault in (
        "q.jsonl, line 4", "q.jsonl, line 5", "question_id 1 occurs more than once",
        "a.jsonl has no answer to question 2", "a.jsonl, line 2",
    ):  # fmt: skip
        assert fault in str(caught.value)


def test_images_in_mmbenchs_file(tmp_path):
    rows = [("7", base64.b64encode(b"picture").decode()), ("1000007", ""), ("9", "7"), ("11", "not base64!")]
    lines = ["index\tquestion\tA\tB\tanswer\timage", *(f"{index}\tWhat?\tx\ty\tA\t{image}" for index, image in rows)]
    (tmp_path / "dev.tsv").write_text("\n".join(lines))
    benchmark = read_benchmark("mmbench", [tmp_path / "dev.tsv"])
    assert benchmark.find_image("7", tmp_path) == benchmark.find_image("9", tmp_path) == b"picture"
    with pytest.raises(DataError, match="the image of question 11 is not base64"):
        benchmark.find_image("11", tmp_path)
