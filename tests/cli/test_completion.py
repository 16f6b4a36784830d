"""Completion in shells: commands, options, and names of bundles."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def documented(shell):
    """The line that docs/command-line.md gives for a shell."""
    text = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text(encoding="utf-8")
    (line,) = re.findall(rf"\| `([^`]*{shell}_source[^`]*)` \|", text)
    return line.replace("\\|", "|")


@pytest.fixture
def complete(run, monkeypatch):
    """complete(*words) -> what could be in place of the last word."""

    def call(*words):
        monkeypatch.setenv("_EDGE_LLAVA_COMPLETE", "bash_complete")
        monkeypatch.setenv("COMP_WORDS", " ".join(["edge-llava", *words]))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        result = run()
        assert (result.code, result.err) == (0, "")
        return [tuple(line.split(",", 1)) for line in result.out.splitlines() if line]

    return call


@pytest.fixture
def bundles(home):
    """Three names of bundles; nothing else is looked at."""
    for name in ("llava-7b-q4_k_m", "llava-13b-q4_k_m", "mine"):
        (home / "bundles" / name).mkdir(parents=True)
        (home / "bundles" / name / "manifest.json").touch()


@pytest.mark.parametrize("command", ["chat", "serve", "caption", "embed", "tune", "bench", "doctor"])
def test_bundles_after_m(complete, bundles, command):
    assert complete(command, "-m", "lla") == [("plain", "llava-13b-q4_k_m"), ("plain", "llava-7b-q4_k_m")]


def test_bundles_in_other_places(complete, bundles):
    assert [name for _, name in complete("inspect", "")] == ["llava-13b-q4_k_m", "llava-7b-q4_k_m", "mine", "demo"]
    assert complete("verify", "d") == [("plain", "demo")]
    assert complete("models", "default", "d") == [("plain", "demo")]
    assert [name for _, name in complete("models", "rm", "")] == ["llava-13b-q4_k_m", "llava-7b-q4_k_m", "mine"]
    assert complete("rm", "mi") == [("plain", "mine")]
    assert complete("chat", "-m", "./b") == [("dir", "./b")]
    assert complete("nonsense", "x") == []


def test_commands_and_options(complete):
    assert complete("cha") == [("plain", "chat")]
    assert ("plain", "--max-tokens") in complete("chat", "--max-t")


def test_a_home_that_cannot_be_read_completes_the_demo(complete, monkeypatch):
    monkeypatch.setenv("EDGE_LLAVA_HOME", "~nobody-of-this-name/x")
    assert complete("chat", "-m", "") == [("plain", "demo")]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_script_works_in_bash(bundles, tmp_path):
    command = tmp_path / "edge-llava"
    command.write_text(f"#!{sys.executable}\nfrom edge_llava.cli import main\nmain()\n")
    command.chmod(0o700)
    script = (
        f"PATH={tmp_path}:$PATH; {documented('bash')}; "
        "COMP_WORDS=(edge-llava chat -m min); COMP_CWORD=3; "
        '_edge_llava_completion edge-llava min -m; echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "mine\n"), done.stderr


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_scripts_of_other_shells(run, monkeypatch, shell):
    variable, value = re.findall(r"(\w+)=(\w+) edge-llava", documented(shell))[0]
    monkeypatch.setenv(variable, value)
    assert f"{variable}={shell}_complete" in run().out
