from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys

import pytest

from edge_llava.scenes.questions import normalize_answer
from edge_llava.scenes.scene import sample_scene

COMMAND = [sys.executable, "-c", "from edge_llava.cli import main; main()"]
KINDS = ["existence", "colour", "shape", "count", "size", "relation", "comparison"]


@pytest.fixture
def evaluate(run, seeded_q4, monkeypatch):
    """evaluate(*arguments) -> Result of `eval scenes` with the demo; noise is cut short."""
    monkeypatch.setattr("edge_llava.evaluation.answering._MAX_ANSWER_TOKENS", 4)
    monkeypatch.setattr("edge_llava.evaluation.answering._MAX_DESCRIPTION_TOKENS", 8)
    return lambda *arguments: run("eval", "scenes", "-m", seeded_q4, "-t", 1, *arguments)


def test_json_is_one_object_with_all_figures(evaluate, seeded_q4):
    result = evaluate("--seed", 5, "--n", 3, "--json")
    assert result.code == 0
    figures = json.loads(result.out)
    assert set(figures) == {
        *("accuracy", "overall", "shuffled", "shuffled_overall", "guessing", "guessing_overall"),
        *("description", "seed", "n", "bundle", "seconds", "visual_tokens"),
    }
    assert (figures["seed"], figures["n"], figures["bundle"]) == (5, 3, str(seeded_q4))
    assert figures["visual_tokens"] is None
    assert list(figures["accuracy"]) == list(figures["shuffled"]) == list(figures["guessing"]) == KINDS
    assert figures["accuracy"]["existence"]["n"] == figures["shuffled"]["existence"]["n"] == 3
    n_asked = sum(figure["n"] for figure in figures["accuracy"].values())
    n_right = sum(figure["n"] * (figure["value"] or 0) for figure in figures["accuracy"].values())
    assert figures["overall"] == pytest.approx(n_right / n_asked)
    assert figures["overall"] < 0.2  # the demo's weights are noise
    assert figures["description"]["n"] == 3


def test_same_seed_same_figures(evaluate):
    first, again = (json.loads(evaluate("--n", 2, "--json").out) for _ in range(2))
    assert first.pop("seconds") != again.pop("seconds")
    assert first == again


def test_failures_hold_every_wrong_answer(evaluate, tmp_path):
    file = tmp_path / "wrong.jsonl"
    result = evaluate("-n", 3, "--failures", file, "--json")
    figures = json.loads(result.out)
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert f"{len(lines)} wrong answers: {file}" in result.err
    wrong = {kind: sum(line["kind"] == kind for line in lines) for kind in KINDS}
    assert wrong == {kind: round(f["n"] * (1 - (f["value"] or 0))) for kind, f in figures["accuracy"].items()}
    assert sum(line["kind"] == "description" for line in lines) == 3
    for line in lines:
        assert set(line) == {"picture", "scene_seed", "kind", "question", "expected", "answered"}
        assert normalize_answer(line["expected"]) != normalize_answer(line["answered"])
        assert sample_scene(line["scene_seed"]).split == "held-out"
    assert {line["picture"] for line in lines} == {0, 1, 2}
    assert list(tmp_path.iterdir()) == [file]


def test_the_table_fits_80_columns_and_is_alone_on_stdout(evaluate, seeded_q4):
    result = evaluate("-n", 2)
    lines = result.out.splitlines()
    assert lines[0].startswith(f"{seeded_q4.name}: 2 held-out pictures of seed 0, ")
    assert [line.split()[0] for line in lines[3:11]] == [*KINDS, "overall"]
    assert max(map(len, lines)) <= 80
    assert re.fullmatch(r"existence +0\.0 % +0\.0 to 65\.8 % +2 +0\.0 % +\d+\.0 %", lines[3])
    assert lines[-1].endswith("objects there are mentioned (recall)")
    assert "asking about pictures" in result.err


def test_one_picture_has_no_check(evaluate):
    result = evaluate("-n", 1, "--json")
    figures = json.loads(result.out)
    assert figures["shuffled"] is None
    assert figures["shuffled_overall"] is None
    table = evaluate("-n", 1).out.splitlines()
    assert ": 1 held-out picture of seed 0" in table[0]
    assert table[10].split()[-4:-2] == [str(sum(f["n"] for f in figures["accuracy"].values())), "-"]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("-m", "no-such-bundle"), 6, "there is no bundle 'no-such-bundle'"),
        (("-m", "EMPTY"), 6, "is not a bundle"),
        (("-m", "DEMO", "-c", "64"), 8, "larger context"),
        (("-n", "0"), 2, "-n"),
        (("--seed", "-1"), 2, "--seed"),
        (("-m", "DEMO", "--failures", "EMPTY/none/wrong.jsonl"), 2, "wrong.jsonl cannot be written"),
        (("-m", "DEMO", "--failures", "EMPTY"), 2, "is a directory"),
    ],
)
def test_bad_input(run, seeded_q4, tmp_path, arguments, code, says):
    places = {"EMPTY": str(tmp_path), "DEMO": str(seeded_q4)}
    filled = [
        next((argument.replace(name, place) for name, place in places.items() if name in argument), argument)
        for argument in arguments
    ]
    result = run("eval", "scenes", *filled)
    assert (result.code, result.out) == (code, "")
    assert says in result.err
    assert "internal error" not in result.err
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_that_fails_leaves_earlier_failures_alone(run, seeded_q4, tmp_path):
    file = tmp_path / "wrong.jsonl"
    file.write_text("earlier\n")
    assert run("eval", "scenes", "-m", seeded_q4, "-c", 64, "--failures", file).code == 8
    assert file.read_text() == "earlier\n"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_does_not_cost_the_scores(evaluate, tmp_path, monkeypatch):
    open_descriptor = os.open

    def open_on_full_disk(path, flags, mode=0o777, **options):
        if str(path).startswith(f"{tmp_path}{os.sep}") and flags & os.O_CREAT:
            return open_descriptor("/dev/full", os.O_WRONLY)
        return open_descriptor(path, flags, mode, **options)

    monkeypatch.setattr(os, "open", open_on_full_disk)
    result = evaluate("-n", 1, "--json", "--failures", tmp_path / "wrong.jsonl")
    assert result.code == 1
    assert json.loads(result.out)["n"] == 1
    assert "No space left" in result.err
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_ends_an_exam_and_leaves_nothing(seeded_q4, tmp_path):
    master, slave = pty.openpty()
    arguments = ["eval", "scenes", "-m", seeded_q4, "-t", "1", "-n", "1000", "--failures", tmp_path / "wrong.jsonl"]
    process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=slave)
    os.close(slave)
    said = b""
    while not re.search(rb"asking about pictures", said):
        said += os.read(master, 4096)
    assert list(tmp_path.glob("*.partial"))
    process.send_signal(signal.SIGINT)
    while b"interrupted" not in said:
        said += os.read(master, 4096)
    assert process.wait(30) == 130
    os.close(master)
    assert process.stdout.read() == b""
    process.stdout.close()
    assert b"Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_an_exam_needs_no_converter(seeded_q4, home):
    code = """
import json, sys
from edge_llava.cli import main
try: main(sys.argv[1:])
except SystemExit as exit_: assert not exit_.code, exit_.code
print(json.dumps(sorted(sys.modules)))
"""
    arguments = ["eval", "scenes", "-m", seeded_q4, "-t", "1", "-n", "1"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    modules = set(json.loads(done.stdout.splitlines()[-1]))
    assert modules >= {"edge_llava.evaluation.scene_scores", "llama_cpp", "onnxruntime"}
    assert not modules & {"torch", "transformers", "optimum", "onnx", "edge_llava.converters", "edge_llava.training"}


def test_help_fits_80_columns(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for command in (("eval",), ("eval", "scenes")):
        short, long = run(*command, "-h"), run(*command, "--help")
        assert short.code == 0
        assert short.out == long.out
        assert max(map(len, short.out.splitlines())) <= 80
        assert "..." not in short.out.replace("[ARGS]...", "")
