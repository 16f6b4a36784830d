"""The pages about training: every command runs in the order of its page, unless the page says what it needs."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

pytestmark = pytest.mark.convert
DOCS = Path(__file__).parents[2] / "docs"
NOT_RUN = "<!-- not run: "  # before a block, with the reason


def find_commands(page: str) -> Iterator[list[str]]:
    """Yields the words of the commands that run."""
    reason = ""
    for token in MarkdownIt("commonmark").parse((DOCS / page).read_text(encoding="utf-8")):
        if token.type == "html_block":
            reason = token.content
        elif token.type in ("code_block", "fence"):
            if not reason.startswith(NOT_RUN) and not token.content.startswith("{"):
                for line in token.content.replace("\\\n", " ").splitlines():
                    yield shlex.split(line, comments=True)
            reason = ""


def run_page(run: Callable[..., object], page: str, smaller: dict[str, str], skipped: tuple[str, ...] = ()) -> str:
    """Runs a page's commands, and returns what the last one printed."""
    out = ""
    for program, *words in find_commands(page):
        assert program == "edge-llava", f"{page}: {program} does not run here; say why above its block, in {NOT_RUN}"
        if words[0] not in skipped:
            done = run(*(smaller.get(word, word) for word in words))
            assert done.code == 0, f"{page}: edge-llava {shlex.join(words)}\n{done.err}"
            out = done.out
    return out


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_instruction_data(run, workplace):
    run_page(run, "instruction-data.md", {})
    assert (workplace / "sheet.png").read_bytes().startswith(b"\x89PNG")
    assert (workplace / "my-scenes" / "llava.json").is_file()


def test_training_with_a_few_scenes(run, workplace):
    out = run_page(run, "training.md", {"40": "3"}, skipped=("convert", "chat"))
    assert out == "my-llava\n"
    assert len((workplace / "my-llava" / "loss.jsonl").read_text().splitlines()) == 1


@pytest.mark.slow
def test_training_as_it_stands(run, workplace, home):
    out = run_page(run, "training.md", {})
    assert "ring" in out  # the first scene has three
    assert len((workplace / "my-llava" / "loss.jsonl").read_text().splitlines()) == 8
    assert (home / "bundles" / "my-llava-q4_k_m" / "manifest.json").is_file()
