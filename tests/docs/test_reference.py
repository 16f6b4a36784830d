"""What the reference pages list is what there is."""

from __future__ import annotations

import re
from pathlib import Path

import cli_reference
import platformdirs.macos
import platformdirs.unix
import platformdirs.windows
import pytest

import edge_llava
from edge_llava import errors, evaluation

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"


def test_the_commands_are_those_of_the_page() -> None:
    written = cli_reference.PAGE.read_text(encoding="utf-8")
    assert written == cli_reference.write_page(), "run: python packaging/cli_reference.py"
    for heading in ("## edge-llava chat\n", "## edge-llava models rm\n", "## edge-llava-selftest\n"):
        assert heading in written


@pytest.mark.parametrize("command", [("chat",), ("eval", "pope"), ("models",)])
def test_the_page_says_what_help_says(run, command) -> None:
    section = cli_reference.PAGE.read_text(encoding="utf-8").split(f"## edge-llava {' '.join(command)}\n")[1]
    page = section.split("```")[1].removeprefix("text")
    shown = run(*command, "--help").out  # wrapped at another width
    assert "".join(page.split()) == "".join(shown.split())


def test_environment_variables() -> None:
    sources = [path for room in ("edge_llava", "runtime", "converters") for path in (ROOT / room).rglob("*.py")]
    used = {name for path in sources for name in re.findall(r"EDGE_LLAVA_[A-Z_]+", path.read_text(encoding="utf-8"))}
    assert "EDGE_LLAVA_HOME" in used
    page = cli_reference.PAGE.read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(EDGE_LLAVA_[A-Z_]+)", page, re.MULTILINE)) == used


def test_exit_codes() -> None:
    page = (REFERENCE / "exit-codes.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (?:`(\w+)`)? ?\|", page, re.MULTILINE)
    own = [error for error in vars(errors).values() if isinstance(error, type) and issubclass(error, Exception)]
    expected = {str(error.exit_code): error.__name__ for error in own if issubclass(error, edge_llava.EdgeLlavaError)}
    assert dict(rows) == {"0": "", "2": "", "130": ""} | expected
    assert len(rows) == len(expected) + 3


def test_every_public_name_has_its_section() -> None:
    page = (REFERENCE / "python.md").read_text(encoding="utf-8")
    listed = re.findall(r"^::: (\S+)$", page, re.MULTILINE)
    public = [f"{module.__name__}.{name}" for module in (edge_llava, evaluation) for name in module.__all__]
    assert sorted(listed) == sorted(public)


def test_where_data_are_kept(monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("USERPROFILE", "/home/me")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr(platformdirs.windows, "get_win_folder", lambda name: {"CSIDL_LOCAL_APPDATA": "L"}[name])
    page = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (Linux|macOS|Windows) \| `([^`]+)`", page, re.MULTILINE))
    for system, module in (("Linux", platformdirs.unix.Unix), ("macOS", platformdirs.macos.MacOS)):
        assert rows[system].replace("~", "/home/me") == module("edge-llava", appauthor=False).user_data_dir
    windows = Path(platformdirs.windows.Windows("edge-llava", appauthor=False).user_data_dir)
    assert rows["Windows"].replace("%LOCALAPPDATA%", "L").split("\\") == list(windows.parts)[-2:]
