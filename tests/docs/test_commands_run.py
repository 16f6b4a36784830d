"""The commands of README.md and docs/ that can run with the demo, in the order of each document."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import blocks
import pytest
from blocks import DOCUMENTS, GENERATED, Line
from command_lines import OWN

# Commands that do not run here, and why. Whether they exist is checked for all of them.
NOT_RUN = {
    r"convert\b": "the tests of the converters and of `convert demo` convert",
    r"train\b": "takes hours, and checkpoints that are not here",
    r"(verify .*--checkpoint|fit \./)": "needs the packages of [convert]",
    r"serve\b": "does not end; the server of these tests runs",
    r"(tune|bench)\b": "measures for a minute",
    r"doctor\b": "its exit code depends on the device",
    r"eval\b": "needs published data, other runs, or a minute",
    r"(pull|push)\b": "needs a hub",
    r".*--watch\b": "does not end",
    r".*--ray\b": "needs a cluster",
    r"data scienceqa\b": "needs published data",
    r"data instruct (?!.*--teacher scenes)": "needs a teacher on a server",
    r"data stats my-images": "needs the answers of a teacher on a server",
    r".*--rpc\b": "needs a server of llama.cpp",
    r".*--visual-tokens 144\b": "an image of the demo has 64",
    r".*--max-tiles 5\b": "the demo cuts no image into tiles",
    r".*(llava-7b|llava-1\.5-7b-hf|my-llava-pi|demo-f16)\b": "a bundle or checkpoint that is not here",
    r".*\.\.\.": "abbreviated",
}
# Smaller numbers for what would take long.
TYPED = {"cache clear": "y\n"}  # what the user types; other commands get a question


def runnable_lines(document: Path) -> Iterator[tuple[str, Line]]:
    """Yields the lines whose only program is edge-llava, and that are not in NOT_RUN."""
    for block in blocks.find_blocks(document):
        if block.language != "shell":
            continue
        for line in blocks.read_lines(block.text):
            programs = [words[0] for words in line.commands if words[0] != "echo"]
            shown = " ".join(line.commands[-1][1:])
            if programs in [[name] for name in OWN] and not any(re.match(pattern, shown) for pattern in NOT_RUN):
                yield block.place, line


RUNNABLE = {path: list(runnable_lines(path)) for path in DOCUMENTS if path != GENERATED}


def run_line(line: Line, monkeypatch: pytest.MonkeyPatch) -> int:
    """Runs a line's command in this process, and returns its exit code."""
    from edge_llava.cli import main
    from edge_llava.cli.selftest import main as selftest

    program, *words = line.commands[-1]
    typed = line.pipes_text or TYPED.get(" ".join(words), "What is this?")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed.encode())))
    with pytest.raises(SystemExit) as exit_:
        (main if program == "edge-llava" else selftest)(words)
    return int(exit_.value.code or 0)


def test_there_is_something_to_run() -> None:
    assert sum(len(lines) for lines in RUNNABLE.values()) > 25
    commands = {line.commands[-1][1] for lines in RUNNABLE.values() for _, line in lines if len(line.commands[-1]) > 1}
    assert commands >= {"chat", "embed", "caption", "inspect", "verify", "models", "cache", "fit", "data"}


@pytest.mark.parametrize("document", [path for path, lines in RUNNABLE.items() if lines], ids=lambda path: path.name)
def test_commands_run(document, workplace, monkeypatch, capfd) -> None:
    for place, line in RUNNABLE[document]:
        code = run_line(line, monkeypatch)
        out, err = capfd.readouterr()
        assert code == 0, f"{place}: {line.text}\nexit code {code}\n{err}"
        assert "Traceback" not in err
        if "--json" in line.commands[-1]:
            json.loads(out)
        if line.commands[-1][:2] == ("edge-llava", "chat"):
            assert out.strip(), f"{place}: {line.text} printed nothing"


def curl_lines() -> list[tuple[str, Line]]:
    """The lines that call the server with curl."""
    return [
        (block.place, line)
        for document in DOCUMENTS
        for block in blocks.find_blocks(document)
        if block.language == "shell"
        for line in blocks.read_lines(block.text)
        if line.commands[0][0] == "curl"
    ]


@pytest.mark.parametrize(("place", "line"), curl_lines(), ids=lambda value: value if isinstance(value, str) else "")
def test_curl_gets_an_answer(place, line, workplace, server_url) -> None:
    if shutil.which("curl") is None or shutil.which("bash") is None:
        pytest.skip("there is no curl or no bash")
    text = line.text.replace("http://127.0.0.1:8080", server_url)
    ran = subprocess.run(["bash", "-c", f"set -e\n{text}"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    answer = json.loads(ran.stdout)
    if "/health" in text:
        assert answer["status"] == "ok"
    else:
        assert answer["choices"][0]["message"]["content"], answer
