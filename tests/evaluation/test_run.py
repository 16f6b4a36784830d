"""Runs over a benchmark: what a stopped one keeps, what it refuses, and a real bundle that is asked."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from PIL import Image

from edge_llava.bundle.bundle import Bundle
from edge_llava.errors import ContextOverflow, DataError
from edge_llava.evaluation.benchmarks.registry import read_benchmark
from edge_llava.evaluation.benchmarks.sampling import sample
from edge_llava.evaluation.bundle_asker import BundleAsker, with_template
from edge_llava.evaluation.run import BenchmarkRun, Said, find_missing_images, refuse_missing_images
from edge_llava.evaluation.run_record import digest_questions, open_run
from edge_llava.runtime.model import LlavaModel
from edge_llava.runtime.options import DecoderOptions, EngineOptions

SETTINGS = {"benchmark": "pope", "max_tokens": 8}


@pytest.fixture
def data(tmp_path):
    """A label file of 60 questions about 12 images, which take turns, and the images' directory."""
    lines = []
    for n in range(60):
        label = "yes" if n % 3 else "no"
        lines.append({"question_id": n + 1, "image": f"{n % 12}.png", "text": f"Is it {n}?", "label": label})
    path = tmp_path / "data" / "coco_pope_popular.json"
    path.parent.mkdir()
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for n in range(12):
        Image.fromarray(np.full((20, 30, 3), 20 * n, np.uint8)).save(path.parent / f"{n}.png")
    return path


@pytest.fixture
def benchmark(data):
    return read_benchmark("pope", [data])


def fake(item):
    """Answers that depend on the question alone."""
    return Said("Yes" if int(item.question_id) % 4 else "No", 1, "stop")


class Stop(BaseException):
    """In place of a kill."""


def test_a_run(benchmark, tmp_path):
    with BenchmarkRun(tmp_path / "run", benchmark, SETTINGS) as run:
        order = [item.picture for item in run.todo]
        run.answer(fake)
        scores = run.finish()
    assert order == sorted(order, key=list(dict.fromkeys(order)).index)  # those of one picture together
    assert (scores.n, scores.n_missing) == (60, 0)
    written = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert written == json.loads(json.dumps(scores.to_dict()))
    lines = [json.loads(line) for line in (tmp_path / "run" / "answers.jsonl").read_text().splitlines()]
    assert len(lines) == len({line["answer_id"] for line in lines}) == 60
    assert set(lines[0]) == {"question_id", "prompt", "text", "answer_id", "model_id", "metadata"}


def test_a_run_that_is_stopped_ten_times_ends_with_the_same_bytes(benchmark, tmp_path):
    with BenchmarkRun(tmp_path / "whole", benchmark, SETTINGS) as run:
        run.answer(fake)
        run.finish()
    chance, asked = random.Random(5), []
    for _ in range(10):
        left = chance.randint(0, 6)

        def ask(item, limit=left, answered=asked):
            nonlocal left
            if left == 0:
                raise Stop
            left -= 1
            answered.append(item.key)
            return fake(item)

        with pytest.raises(Stop), BenchmarkRun(tmp_path / "torn", benchmark, SETTINGS) as run:
            run.answer(ask)
        with open(tmp_path / "torn" / "answers.jsonl", "ab") as file:
            file.write(b'{"question_id": 4, "te')  # what a kill leaves
    with BenchmarkRun(tmp_path / "torn", benchmark, SETTINGS) as run:
        assert len(run.todo) == 60 - len(asked) > 0
        run.answer(fake)
        run.finish()
    for name in ("scores.json", "wrong.jsonl", "answers.jsonl"):
        assert (tmp_path / "torn" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_other_settings_are_named(benchmark, tmp_path):
    with BenchmarkRun(tmp_path, benchmark, SETTINGS):
        pass
    with pytest.raises(DataError, match="max_tokens: 8 then, 9 now"):
        BenchmarkRun(tmp_path, benchmark, SETTINGS | {"max_tokens": 9})


def test_texts_with_any_character_are_read_again(tmp_path):
    """Half a surrogate pair in a question, and characters that Python takes for ends of lines in an answer."""
    path = tmp_path / "q.jsonl"
    path.write_text('{"question_id": 1, "text": "\\ud83d?", "image": null}\n')
    questions = read_benchmark("questions", [path])
    settings = {"questions": digest_questions(questions)}
    said = "a\u2028b\x85c\x0bd é 猫"
    with BenchmarkRun(tmp_path / "run", questions, settings) as run:
        run.answer(lambda item: Said(said, 1, "stop"))
        assert run.finish().n_missing == 0
    assert open_run(tmp_path / "run").answers() == {"1": said}
    with BenchmarkRun(tmp_path / "run", questions, settings) as run:
        assert not run.todo


def test_files_of_others_are_left_alone(benchmark, tmp_path):
    (tmp_path / "answers.jsonl").write_text('{"question_id": 1, "text": "x"}')
    with pytest.raises(DataError, match=r"was not written by a run: run\.json is missing"):
        BenchmarkRun(tmp_path, benchmark, SETTINGS)
    assert (tmp_path / "answers.jsonl").read_text() == '{"question_id": 1, "text": "x"}'


def test_one_writer_at_a_time(benchmark, tmp_path):
    with BenchmarkRun(tmp_path, benchmark, SETTINGS), pytest.raises(DataError, match="in use by another run"):
        BenchmarkRun(tmp_path, benchmark, SETTINGS)


def test_a_damaged_line_is_not_passed_over(benchmark, tmp_path):
    with BenchmarkRun(tmp_path, benchmark, SETTINGS) as run:
        run.answer(fake)
    with open(tmp_path / "answers.jsonl", "a") as file:
        file.write("[]\n")
    with pytest.raises(DataError, match="line 61 is no answer"):
        BenchmarkRun(tmp_path, benchmark, SETTINGS)


def test_a_question_that_does_not_fit_stays_without_an_answer(benchmark, tmp_path):
    def ask(item):
        if item.question_id == 3:
            raise ContextOverflow(90, 80, "too long", "Ask less.")
        return fake(item)

    with BenchmarkRun(tmp_path, benchmark, SETTINGS) as run:
        run.answer(ask)
        assert run.finish().n_missing == 1
        assert [item.question_id for item in run.todo] == [3]


def test_missing_images_are_counted(benchmark, data):
    for n in range(7):
        (data.parent / f"{n}.png").unlink()
    missing = find_missing_images(benchmark, data.parent)
    with pytest.raises(
        DataError, match=r"7 images of 35 questions .*: 0\.png, 1\.png, 2\.png, 3\.png, 4\.png and 2 more"
    ):
        refuse_missing_images(missing, data.parent)
    refuse_missing_images([], data.parent)


def test_samples_take_whole_pictures_and_grow(benchmark):
    small, large, other = (sample(benchmark, n, seed) for n, seed in ((12, 1), (31, 1), (12, 2)))
    assert len(small.items) == 15  # three pictures of five
    assert len(large.items) == 35
    assert {item.key for item in small.items} < {item.key for item in large.items}
    assert {item.key for item in small.items} != {item.key for item in other.items}
    assert small.variant.endswith("; 15 of 60 questions")
    assert sample(benchmark, None, 1) is sample(benchmark, 60, 1) is benchmark


def test_a_bundle_is_asked(benchmark, data, seeded_f32, home, tmp_path):
    """Each image is encoded once, and the order of the questions changes no answer."""
    bundle = with_template(Bundle.open(seeded_f32), benchmark, "auto")
    options = EngineOptions(DecoderOptions(n_threads=1), n_vision_threads=1)
    texts = []
    for name, part in (("one", benchmark), ("two", read_benchmark("pope", [data]))):
        if name == "two":
            part.items = part.items[::-1]
        with BenchmarkRun(tmp_path / name, part, SETTINGS) as run, LlavaModel(bundle, options) as model:
            asker = BundleAsker(model, lambda image: data.parent / image, max_tokens=6)
            run.answer(asker)
            assert run.finish().n_missing == 0
        assert asker.n_encoded == 12
        lines = [json.loads(line) for line in (tmp_path / name / "answers.jsonl").read_text().splitlines()]
        texts.append({line["question_id"]: line["text"] for line in lines})
    assert texts[0] == texts[1]
    assert len(set(texts[0].values())) > 1


@pytest.mark.parametrize(
    ("own", "wanted", "found"),
    [("llava_v1", "auto", "vicuna_v1"), ("llava_v0", "auto", "llava_v0"), ("llava_v1", "llava_v0", "llava_v0")],
)
def test_templates(benchmark, seeded_f32, own, wanted, found):
    bundle = with_template(Bundle.open(seeded_f32), benchmark, own)
    template = with_template(bundle, benchmark, wanted).manifest.language.template
    assert template.name == found
    if found == "vicuna_v1":
        assert "curious user" in str(template.opening)
