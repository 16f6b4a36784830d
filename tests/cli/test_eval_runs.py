"""Runs as commands: asked by a bundle, scored again, compared, judged, and joined with another model's answers."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from edge_llava.cli import cli


def run(*arguments, exit_code=0):
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments], catch_exceptions=True)
    assert result.exit_code == exit_code, f"{result.output}\n{result.exception!r}"
    return result


def write_lines(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def pope(tmp_path):
    """A label file of 24 questions about four images, beside them."""
    lines = [
        {"question_id": n + 1, "image": f"{n % 4}.png", "text": f"Is it {n}?", "label": "yes" if n % 2 else "no"}
        for n in range(24)
    ]
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "coco_pope_popular.json"
    write_lines(path, lines)
    for n in range(4):
        Image.fromarray(np.full((20, 30, 3), 60 * n, np.uint8)).save(path.parent / f"{n}.png")
    return path


@pytest.fixture
def bench(tmp_path):
    """LLaVA-Bench in the wild, of two questions about one image."""
    directory = tmp_path / "wild"
    (directory / "images").mkdir(parents=True)
    Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(directory / "images" / "001.png")
    kinds = ("llava_bench_conv", "llava_bench_detail")
    questions = [
        {"question_id": n, "image": "001.png", "text": f"What {n}?", "category": k} for n, k in enumerate(kinds)
    ]
    write_lines(directory / "questions.jsonl", questions)
    write_lines(directory / "context.jsonl", [{"id": 1, "image": "001.png", "caption": "A grey thing."}])
    write_lines(
        directory / "answers_gpt4.jsonl", [{"question_id": n, "text": "Grey.", "category": "x"} for n in (0, 1)]
    )
    return directory


def ask(name, data, bundle, out, *more):
    return run("eval", name, data, "-m", bundle, "-o", out, "--max-tokens", "6", "-t", "1", *more)


def test_a_run_is_scored_again_and_compared(pope, seeded_q4, seeded_f32, tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    first = ask("pope", pope, seeded_f32, a)
    assert "pope (popular; answers of at most 6 tokens," in first.output
    written = (a / "scores.json").read_bytes()
    again, shown = run("eval", "score", a).stdout, first.stdout.removesuffix(f"{a}\n")
    assert again.split()[1:] == shown.split()[1:]  # after the names
    assert "published ones 128: not comparable" in " ".join(again.split())
    assert (a / "scores.json").read_bytes() == written
    ask("pope", pope, seeded_q4, b)
    found = json.loads(run("eval", "compare", a, b, "--json").stdout)
    assert (found["n"], found["benchmark"], found["p_holm"]) == (24, "pope", None)
    several = json.loads(run("eval", "compare", a, b, "--also", a, a, "--json").stdout)
    assert [each["n"] for each in several] == [24, 24]
    assert several[1]["p_holm"] == 1
    assert "(Holm)" in run("eval", "compare", a, b, "--also", a, a).output


def test_data_that_moved_are_named(pope, seeded_q4, tmp_path):
    ask("pope", pope, seeded_q4, tmp_path / "run")
    moved = pope.rename(tmp_path / "coco_pope_popular.json")
    assert "cannot be read" in str(run("eval", "score", tmp_path / "run", exit_code=1).exception)
    run("eval", "score", tmp_path / "run", moved)
    lines = moved.read_text().splitlines()
    moved.write_text("\n".join(lines[:-1]))
    assert "are not the questions" in str(run("eval", "score", tmp_path / "run", moved, exit_code=1).exception)


def test_runs_of_other_limits_are_not_compared(pope, seeded_q4, tmp_path):
    ask("pope", pope, seeded_q4, tmp_path / "a")
    run("eval", "pope", pope, "-m", seeded_q4, "-o", tmp_path / "b", "--max-tokens", "5", "-t", "1")
    refused = str(run("eval", "compare", tmp_path / "a", tmp_path / "b", exit_code=1).exception)
    assert "max_tokens: 6 in A, 5 in B" in refused


def test_moved_data_are_named_in_any_order(pope, seeded_q4, tmp_path):
    other = pope.with_name("coco_pope_random.json")
    other.write_text(pope.read_text())
    run("eval", "pope", pope, other, "-m", seeded_q4, "-o", tmp_path / "a", "--max-tokens", "2", "-t", "1")
    moved = [path.rename(tmp_path / path.name) for path in (other, pope)]
    assert json.loads(run("eval", "compare", tmp_path / "a", tmp_path / "a", *moved, "--json").stdout)["n"] == 48


def test_a_run_asked_in_another_format_is_refused(scienceqa, seeded_q4, tmp_path):
    ask("scienceqa", scienceqa, seeded_q4, tmp_path / "run", "--format", "QCM-LEA")
    arguments = (
        "eval",
        "scienceqa",
        scienceqa,
        "-m",
        seeded_q4,
        "-o",
        tmp_path / "run",
        "--max-tokens",
        "6",
        "-t",
        "1",
    )
    assert "asked: " in str(run(*arguments, "--format", "QCM-ALE", exit_code=1).exception)


def test_judgings_by_others_are_not_compared(bench, seeded_q4, server, tmp_path):
    server.behave = lambda request, index: server.say("8 6")
    for name, model in (("a", "x"), ("b", "y")):
        ask("llava-bench", bench, seeded_q4, tmp_path / name)
        run("eval", "judge", tmp_path / name, "--judge", server.url, "--model", model)
    assert "judges: " in str(run("eval", "compare", tmp_path / "a", tmp_path / "b", exit_code=1).exception)
    run("eval", "judge", tmp_path / "b", "--judge", server.url, "--model", "x")
    found = json.loads(run("eval", "compare", tmp_path / "a", tmp_path / "b", "--json").stdout)
    assert (found["n"], found["difference"]) == (2, 0)


def test_samples_grow_and_are_scored_as_they_were_asked(pope, seeded_q4, tmp_path):
    out = tmp_path / "run"
    assert "6 of 24 questions" in ask("pope", pope, seeded_q4, out, "--sample", "5").output
    assert "6 of 24 questions" in run("eval", "score", out).output
    assert "12 of 24 questions" in ask("pope", pope, seeded_q4, out, "--sample", "12").output
    assert len((out / "answers.jsonl").read_text().splitlines()) == 12


def test_several_questions_at_a_time(pope, seeded_f32, tmp_path):
    """The same answers, in the same file."""
    ask("pope", pope, seeded_f32, tmp_path / "one")
    ask("pope", pope, seeded_f32, tmp_path / "four", "--parallel", "4")
    texts = [
        [(line["question_id"], line["text"]) for line in map(json.loads, (tmp_path / name / "answers.jsonl").open())]
        for name in ("one", "four")
    ]
    assert texts[0] == texts[1]


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
@pytest.mark.parametrize("parallel", ["1", "4"])
def test_ctrl_c_keeps_the_answers_and_says_so(pope, seeded_q4, tmp_path, parallel):
    lines = [json.loads(line) for line in pope.read_text().splitlines()]
    many = [lines[n % 24] | {"question_id": n, "text": f"Is it {n}?"} for n in range(4000)]
    write_lines(pope, many)
    where = ["-m", seeded_q4, "-o", tmp_path / "run", "-t", "1", "--max-tokens", "4", "--parallel", parallel]
    command = [sys.executable, "-m", "edge_llava.cli", "eval", "pope", *map(str, (pope, *where))]
    answers = tmp_path / "run" / "answers.jsonl"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not (answers.exists() and answers.stat().st_size):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"Answers are kept in {tmp_path / 'run'}; run the same command again to resume." in said
    assert "Traceback" not in said
    assert 0 < len(answers.read_text().splitlines()) < 4000


def test_skipped_images_stay_skipped(pope, seeded_q4, tmp_path):
    (pope.parent / "2.png").unlink()
    output = ask("pope", pope, seeded_q4, tmp_path / "run", "--skip-faulty").output
    assert "6 questions are left out" in output
    assert "18 of 24 questions" in run("eval", "score", tmp_path / "run").output


def test_llava_bench_is_asked_and_judged(bench, seeded_q4, server, tmp_path):
    out = tmp_path / "run"
    asked = ask("llava-bench", bench, seeded_q4, out)
    assert "llava-bench (in the wild; answers of at most 6 tokens," in asked.output
    assert "answers without a review; 'edge-llava eval judge' asks for them: 2" in asked.output
    server.behave = lambda request, index: server.say("8 6\nbecause")
    judging = ("eval", "judge", out, "--judge", server.url, "--model", "gpt")
    shown = run(*judging, "--price-in", "30", "--price-out", "60", "--max-cost", "1")
    assert "judging 2 answers: 2 requests, about " in shown.output
    assert "relative score, all " in shown.output
    assert "75.00" in shown.output
    assert f"judged by gpt at {server.url}, our wording, references first" in shown.output
    assert "tokens of all replies: 200 prompt, 40 completion, cost 0.0084" in shown.output
    assert all(len(line) <= 80 for line in shown.stdout.splitlines() if server.url not in line and str(out) not in line)
    again = run(*judging, "--json")
    assert "every reply is kept already" in again.stderr
    values = json.loads(again.stdout)
    assert (values["figures"][0]["value"], values["wording"], values["n_unjudged"]) == (75.0, "our wording", 0)
    assert "relative score, all " in run("eval", "score", out).output
    reviews = run("eval", "score", "--answers", out / "reviews.jsonl", "--benchmark", "llava-bench")
    assert "75.00" in reviews.output


def test_a_judge_that_dies_leaves_scores(bench, seeded_q4, server, tmp_path):
    out = tmp_path / "run"
    ask("llava-bench", bench, seeded_q4, out)
    server.behave = lambda request, index: server.say("8 6") if index == 0 else server.send("no", 403)
    failed = run("eval", "judge", out, "--judge", server.url, "--model", "m", "--concurrency", "1", exit_code=1)
    assert "refuses, status 403" in str(failed.exception)
    assert "asks for them: 1" in failed.output
    assert json.loads((out / "scores.json").read_text())["n_unjudged"] == 1


def test_a_bundle_that_judges_itself_is_told(bench, seeded_q4, server, tmp_path):
    ask("llava-bench", bench, seeded_q4, tmp_path / "run")
    name = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]["bundle"]
    output = run("eval", "judge", tmp_path / "run", "--judge", server.url, "--model", name).output
    assert "judges its own answers" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["judge", "POPE", "--judge", "URL", "--model", "m"], "whose answers need no judge"),
        (["judge", "WILD", "--judge", "URL"], "--model: name the model"),
        (["judge", "WILD", "--judge", "URL", "--model", "m", "--judge-prompt", "F"], "--judge-prompt is for mm-vet"),
        (["judge", "WILD", "--judge", "URL", "--model", "m", "--max-cost", "1"], "needs --price-in"),
        (["ensemble", "POPE", "--other", "F"], "ensembles are of scienceqa"),
        (["ensemble", "F", "D", "--other", "F"], "name a directory"),
        (["ensemble", "POPE", "--other", "F", "--judge", "URL"], "--model: name the model"),
        (["judge", "WILD", "--judge", "URL", "--model", "m", "--temperature", "nan"], "is not a finite number"),
        (["judge", "WILD", "--judge", "URL", "--model", "m", "--max-cost", "nan"], "is not a finite number"),
        (["score"], "name a run"),
        (["score", "D"], "is not the directory of a run"),
        (["score", "POPE", "--split", "x"], "a run knows its benchmark"),
        (["compare", "POPE", "D"], "is not the directory of a run"),
        (["compare", "POPE", "POPE", "--split", "x"], "runs know how they were asked"),
    ],
)
def test_wrong_arguments(pope, bench, tmp_path, arguments, message):
    from edge_llava.evaluation.benchmarks.registry import read_benchmark
    from edge_llava.evaluation.run import BenchmarkRun
    from edge_llava.evaluation.run_record import digest_questions

    for name, data in (("pope", pope), ("llava-bench", bench)):
        benchmark = read_benchmark(name, [data])
        with BenchmarkRun(tmp_path / name, benchmark, {"questions": digest_questions(benchmark)}):
            pass
    places = {
        "POPE": tmp_path / "pope",
        "WILD": tmp_path / "llava-bench",
        "F": pope,
        "D": pope.parent,
        "URL": "http://h",
    }
    result = run("eval", *(places.get(argument, argument) for argument in arguments), exit_code=2)
    assert message in " ".join(result.output.split())


@pytest.fixture
def scienceqa(tmp_path):
    """Four problems, one with an image, and two solved ones."""
    problem = {
        "question": "Which?", "choices": ["x", "y"], "answer": 1, "hint": "", "lecture": "L.", "solution": "S.",
        "image": None, "subject": "natural science", "grade": "grade2", "topic": "t",
    }  # fmt: skip
    problems = {str(n): problem | {"question": f"Which {n}?"} for n in (1, 2, 3, 4, 8, 9)}
    problems["2"]["image"] = "image.png"
    directory = tmp_path / "ScienceQA"
    (directory / "images" / "test" / "2").mkdir(parents=True)
    Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(directory / "images" / "test" / "2" / "image.png")
    (directory / "problems.json").write_text(json.dumps(problems))
    (directory / "pid_splits.json").write_text(json.dumps({"test": list("1234"), "train": ["8", "9"]}))
    return directory


def test_scienceqa_is_asked_in_two_calls_and_joined(scienceqa, seeded_q4, server, tmp_path):
    out = tmp_path / "run"
    shown = ask("scienceqa", scienceqa, seeded_q4, out, "--format", "QCM-LEPA", "--template", "llava_v0").output
    assert "test, format QCM-LEPA" in shown
    lines = [json.loads(line) for line in (out / "answers.jsonl").open()]
    assert all("\n The answer is " in line["text"] for line in lines)
    server.behave = lambda request, index: server.say("Because. The answer is B.")
    arguments = ("eval", "ensemble", out, "--other", server.url, "--judge", server.url, "--model", "gpt")
    shown = run(*arguments, "--shots", "8,9").output
    assert "asking the other model: 4 requests" in shown
    assert "judge         " in shown
    values = json.loads(run(*arguments, "--shots", "8,9", "--json").stdout)
    found = {figure["name"]: figure["value"] for figure in values["figures"]}
    assert (found["judge"], found["other"], found["complement"]) == (100, 100, 100)
    assert found["the two disagree"] == sum("answer is B." not in line["text"] for line in lines)
    assert len((out / "other.jsonl").read_text().splitlines()) == 4
    from_file = run("eval", "ensemble", out, "--other", out / "other.jsonl", "--json")
    assert json.loads(from_file.stdout)["figures"][0]["name"] == "complement"
    foreign = run("eval", "ensemble", out / "other.jsonl", scienceqa, "--format", "QCM-LEPA", "--other",
                  out / "other.jsonl", "-o", tmp_path / "e", "--json")  # fmt: skip
    assert {f["name"]: f["value"] for f in json.loads(foreign.stdout)["figures"]}["either right"] == 100
