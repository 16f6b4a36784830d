"""No control character of a file, or of an answer, reaches a terminal."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from edge_llava.cli.display import show_progress
from edge_llava.cli.printable import printable
from edge_llava.home.progress import ProgressEvent
from edge_llava.selftest import BUNDLE

EVIL = "a\x1b]0;title\x07\x1b]52;c;Zm9v\x1b\\\x1b[2J\x9b1m\u202eb\rc\x7f"
SHOWN = r"a\x1b]0;title\x07\x1b]52;c;Zm9v\x1b" + "\\" + r"\x1b[2J\x9b1m\u202eb\x0dc\x7f"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (EVIL, SHOWN),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("café 三个 שלום \u200f 👩\u200d👩 नि\u200d", "café 三个 שלום \u200f 👩\u200d👩 नि\u200d"),
        ("\x00\x9f\u2028\u2066\u2069\udce9", r"\x00\x9f\u2028\u2066\u2069\udce9"),
    ],
)
def test_controls_become_visible(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_every_control_is_known() -> None:
    """By its category: other controls, lines, paragraphs; and the formats that turn the direction."""
    import unicodedata

    wanted = {
        character
        for character in map(chr, range(sys.maxunicode + 1))
        if unicodedata.category(character) in ("Cc", "Zl", "Zp", "Cs")
        or unicodedata.bidirectional(character) in ("LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI")
    } - {"\t", "\n"}
    found = {character for character in map(chr, range(sys.maxunicode + 1)) if printable(character) != character}
    assert found == wanted


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return shutil.copytree(BUNDLE, tmp_path / "b")


def edit(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    data = json.loads((bundle / "manifest.json").read_text())
    change(data)
    (bundle / "manifest.json").write_text(json.dumps(data))


def test_inspect_and_list(tiny: Path, home: Path, run: Callable[..., Any]) -> None:
    edit(tiny, lambda data: (data["source"].update(name=EVIL, license_files=[EVIL]), data.update(created_by=EVIL)))
    (home / "bundles").mkdir()
    (home / "bundles" / "evil").symlink_to(tiny)
    for command in (("inspect", tiny), ("models", "list")):
        result = run(*command)
        assert result.code == 0
        assert SHOWN in result.out
        assert printable(result.out) == result.out
    assert json.loads(run("inspect", tiny, "--json").out)["manifest"]["source"]["name"] == EVIL


def test_errors(tiny: Path, run: Callable[..., Any]) -> None:
    edit(tiny, lambda data: data["files"].update({EVIL: {}}))
    for command in (("inspect", tiny), ("inspect", EVIL), ("chat", EVIL, "-m", tiny, "-p", "x")):
        result = run(*command)
        assert result.code != 0
        assert printable(result.err) == result.err
        assert r"\x1b]0;" in result.err


def test_progress(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress() as progress:
        progress(ProgressEvent(f"checking {EVIL}", 1, 1))
    assert capsys.readouterr().err == f"checking {SHOWN}: 1 B\n"


PROGRAM = [sys.executable, "-c", "from edge_llava.cli import main; main()"]
NAME = "a\x1b]0;title\x07\u202e\nb\x9b2J"
NAME_SHOWN = r"a\x1b]0;title\x07\u202e"


def run_on_terminal(*arguments: object, **environment: str) -> tuple[str, str]:
    """What a command writes to stdout, a terminal, and to stderr, a pipe."""
    ours, theirs = os.openpty()
    command = [*PROGRAM, *map(str, arguments)]
    result = subprocess.run(
        command, stdout=theirs, stderr=subprocess.PIPE, env={**os.environ, **environment}, check=False, text=True
    )
    os.close(theirs)
    try:
        return os.read(ours, 10_000).decode().replace("\r\n", "\n"), result.stderr
    except OSError:  # nothing was written
        return "", result.stderr
    finally:
        os.close(ours)


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="this system has no terminals of that kind")
def test_results_on_a_terminal(tiny: Path, tmp_path: Path) -> None:
    """Paths that a command prints, faults of files, and questions."""
    folder = tmp_path / NAME
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / f"{NAME}.png")
    (folder / f"{NAME}.jpg").write_bytes(b"no image")
    said, notes = run_on_terminal("caption", folder, "-m", tiny, "-n", 1, "-t", 1)
    assert NAME_SHOWN in said
    assert printable(said + notes) == said + notes
    assert f"  {NAME_SHOWN}\\nb\\x9b2J.jpg: it is not an image" in notes  # one line
    said, notes = run_on_terminal("cache", "info", EDGE_LLAVA_CACHE=str(folder))
    assert NAME_SHOWN in said
    assert printable(said + notes) == said + notes
    said, notes = run_on_terminal("embed", folder / f"{NAME}.png", "-o", folder / "e.safetensors", "-m", tiny)
    assert NAME_SHOWN in said
    assert printable(said + notes) == said + notes


def test_a_program_gets_paths_as_they_are(tiny: Path, tmp_path: Path, run: Callable[..., Any]) -> None:
    folder = tmp_path / NAME
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    assert run("caption", folder, "-m", tiny, "-n", 1, "-t", 1).out == f"{folder / 'captions.jsonl'}\n"


def test_a_name_makes_no_second_line(tiny: Path, home: Path, run: Callable[..., Any]) -> None:
    """A line feed in a manifest could forge a line of `inspect`, or a bundle of `models list`."""
    edit(tiny, lambda data: data["source"].update(name="x\nparity     equal"))
    (home / "bundles").mkdir()
    (home / "bundles" / "b").symlink_to(tiny)
    for command in (("inspect", tiny), ("models", "list")):
        lines = run(*command).out.splitlines()
        assert any(r"x\nparity     equal" in line for line in lines)
        assert not any(line.startswith("parity     equal") for line in lines)


def test_debugging_shows_none_either(tiny: Path) -> None:
    edit(tiny, lambda data: data["files"].update({EVIL: {}}))
    command = [*PROGRAM, "--debug", "inspect", str(tiny)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Traceback" in result.stderr
    assert printable(result.stderr) == result.stderr


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="this system has no terminals of that kind")
@pytest.mark.parametrize("is_terminal", [True, False])
def test_answer(tiny: Path, is_terminal: bool) -> None:
    """A terminal shows them; a pipe gets the answer's own bytes. The small bundle's answer to this contains one."""
    command = [*PROGRAM, "chat", "-m", str(tiny), "-p", "left left", "-n", "5", "--temp", "0", "-t", "1"]
    if not is_terminal:
        result = subprocess.run(command, capture_output=True, check=False)
        assert result.stdout.decode() == "rsX\ufffd shows\x18" + os.linesep
        return
    ours, theirs = os.openpty()
    result = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, check=False)
    os.close(theirs)
    assert os.read(ours, 10_000).decode().split() == ["rsX\ufffd", r"shows\x18"], result.stderr
    os.close(ours)
