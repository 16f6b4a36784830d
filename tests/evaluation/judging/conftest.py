"""Small benchmarks for a judge, in their published files, and a run that answered them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from edge_llava.evaluation.benchmarks.registry import read_benchmark
from edge_llava.evaluation.run import BenchmarkRun, Said
from edge_llava.evaluation.run_record import RunRecord, digest_questions, open_run
from edge_llava.remote.chat_client import ChatClient, ChatOptions
from edge_llava.remote.kept_replies import KeptReplies


def write_lines(path: Path, lines: list[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


@pytest.fixture
def coco(tmp_path) -> Path:
    """LLaVA-Bench COCO of four questions about two images, whose boxes and captions are those of the golden case."""
    directory = tmp_path / "coco"
    (directory / "images").mkdir(parents=True)
    kinds = ("conv", "conv", "detail", "complex")
    questions = [
        {"question_id": n, "image": f"{n // 2}.jpg", "text": f"What is it {n}?", "category": kind}
        for n, kind in enumerate(kinds)
    ]
    write_lines(directory / "qa90_questions.jsonl", questions)
    references = [{"question_id": n, "text": f"REF{n}", "category": kind} for n, kind in enumerate(kinds)]
    write_lines(directory / "qa90_gpt4_answer.jsonl", references)
    instances = [
        {"category": "dog", "bbox": [0.1, 0.25, 0.9, 0.8]}, {"category": "ball", "bbox": [0.0, 0.5, 0.1, 0.6]},
    ]  # fmt: skip
    contexts = [
        {"id": str(n), "image": f"{n}.jpg", "captions": ["A dog sits.", "A dog on grass."], "instances": instances}
        for n in range(2)
    ]
    write_lines(directory / "caps_boxes_coco2014_val_80.jsonl", contexts)
    return directory


@pytest.fixture
def mm_vet(tmp_path) -> Path:
    """MM-Vet of three questions."""
    facts = (("ocr", "math"), ("rec",), ("math", "ocr"))
    entries = {
        f"v1_{n}": {
            "imagename": f"v1_{n}.png", "question": f"Q{n}?", "answer": f"A{n}<AND>B<OR>C", "imagesource": "x",
            "capability": list(able),
        }
        for n, able in enumerate(facts)
    }  # fmt: skip
    path = tmp_path / "mm-vet.json"
    path.write_text(json.dumps(entries))
    return path


@pytest.fixture
def answered(tmp_path) -> Callable[[str, Path], RunRecord]:
    """answered(name, data) -> a run of a bundle "mine" that answered "CAND" and the question's id."""

    def run(name: str, data: Path) -> RunRecord:
        benchmark = read_benchmark(name, [data])
        settings = {"benchmark": name, "questions": digest_questions(benchmark), "bundle": "mine", "max_tokens": 9}
        with BenchmarkRun(tmp_path / "run", benchmark, settings) as begun:
            begun.answer(lambda item: Said(f"CAND{item.question_id}", 1, "stop"))
            begun.finish()
        return open_run(tmp_path / "run")

    return run


@pytest.fixture
def replies(server, tmp_path) -> Iterator[KeptReplies]:
    """Of the server's model, kept beside the run."""
    options = ChatOptions(server.url, "judge", n_tries=2, first_wait_s=0.01, timeout_s=5)
    with ChatClient(options) as client, KeptReplies(tmp_path / "replies.jsonl", client) as kept:
        yield kept
