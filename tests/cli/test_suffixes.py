"""No output takes the suffix of another format, and none is begun before that is said."""

from __future__ import annotations

import pytest

ANSWERS = ("eval", "score", "--answers", "IN", "--benchmark", "pope", "IN")
COMMANDS = [
    ("x.json", ".jsonl or .csv", "caption", "IN", "-o"),
    ("x.txt", ".jsonl or .csv", "caption", "IN", "-o"),
    ("x.npy", ".safetensors", "embed", "IN", "-o"),
    ("x.csv", ".json or .jsonl", "data", "instruct", "IN", "--teacher", "scenes", "-o"),
    ("x.csv", ".json or .jsonl", "data", "captions", "IN", "-o"),
    ("x.jsonl", ".json", "data", "scienceqa", "DIRECTORY", "-o"),
    ("x.jpg", ".png", "data", "stats", "IN", "--sheet"),
    ("x.csv", ".jsonl", "eval", "scenes", "--failures"),
    ("x.json", ".jsonl", *ANSWERS, "--wrong"),
    ("x.jsonl", ".json", *ANSWERS, "--upload"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command[2:4]))
def test_a_suffix_of_another_format_is_a_usage_error(run, tmp_path, command):
    name, right, *arguments = command
    (tmp_path / "in").write_text("nothing that could be read")
    places = {"IN": tmp_path / "in", "DIRECTORY": tmp_path}
    result = run(*(places.get(argument, argument) for argument in arguments), tmp_path / name)
    assert (result.code, result.out) == (2, "")
    assert f"as .{name.split('.')[1]}, only as {right}." in result.err.replace("\n", " ")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
