"""Every command and block of code in README.md and docs/ is checked, and whatever can run here runs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import blocks
import click
import pytest
from blocks import DOCUMENTS, GENERATED, ROOT, Block
from command_lines import check_command

BLOCKS = [block for document in DOCUMENTS if document != GENERATED for block in blocks.find_blocks(document)]
# Languages that are only read: nothing here knows whether they are right.
ONLY_READ = {
    "text": "what is printed, or a drawing",
    "rust": "there is no compiler here",
    "nginx": "there is no nginx here",
    "haproxy": "there is no HAProxy here",
}


def of(language: str) -> pytest.MarkDecorator:
    """Parametrizes a test with the blocks of a language."""
    found = [block for block in BLOCKS if block.language == language]
    return pytest.mark.parametrize("block", found, ids=lambda block: block.place)


def test_blocks_are_found() -> None:
    counts = {language: sum(block.language == language for block in BLOCKS) for language in ("shell", "python", "json")}
    assert counts["shell"] > 40, counts
    assert counts["python"] > 8, counts
    assert counts["json"] > 4, counts
    assert {block.language for block in BLOCKS} == {"shell", "python", "json", "yaml", "js", *ONLY_READ}


def test_lines_are_read_as_a_shell_does() -> None:
    text = (
        "pc$ edge-llava chat 'a b.jpg' \\\n   -p \"What?\"  # a comment\n\nKEY=1 edge-llava serve && echo done\n"
        "  API:  http://127.0.0.1:8080/v1\necho 'What is this?' | edge-llava chat\ncurl -d @- <<END\n{}\n\nEND\n"
    )
    lines = list(blocks.read_lines(text))
    assert [line.commands for line in lines] == [
        (("edge-llava", "chat", "a b.jpg", "-p", "What?"),),
        (("edge-llava", "serve"), ("echo", "done")),
        (("echo", "What is this?"), ("edge-llava", "chat")),
        (("curl", "-d", "@-"),),
    ]
    assert [line.pipes_text for line in lines] == [None, None, "What is this?", None]
    assert lines[-1].text == "curl -d @- <<END\n{}\n\nEND"


@pytest.mark.parametrize(
    "text",
    [
        "edge-llava chatt img.jpg",
        "edge-llava chat --systm x",
        "edge-llava chat -n none",
        "edge-llava caption",
        "edge-llava models rm",
        "edge-llava models list more",
        "edge-llava-selftest --fast",
        "pip install '.[cpu,gpu]'",
        "make everything",
        "python benchmarks/nothing.py",
        "python benchmarks/limits.py --fast",
        "frobnicate",
    ],
)
def test_wrong_commands_are_seen(text) -> None:
    (line,) = blocks.read_lines(text)
    with pytest.raises((AssertionError, click.UsageError)):
        check_command(line.commands[0])


@of("shell")
def test_commands_exist(block: Block) -> None:
    n_commands = 0
    for line in blocks.read_lines(block.text):
        for command in line.commands:
            check_command(command)
            n_commands += 1
    assert n_commands or re.search(blocks.PRINTED[-1], block.text), f"{block.place} has no command: {block.text}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_in_sentences_exist(document) -> None:
    for text in blocks.find_inline_commands(document):
        for line in blocks.read_lines(text):
            check_command(line.commands[-1], complete=False)


def test_examples_of_help_exist() -> None:
    text = re.sub(r"\\\n\s*", "", GENERATED.read_text(encoding="utf-8"))
    examples = re.findall(r"^  (edge-llava(?:-selftest)? .+)$", text, re.MULTILINE)
    assert len(examples) > 30
    for example in examples:
        for line in blocks.read_lines(example):
            check_command(line.commands[-1])


@of("json")
def test_json_parses(block: Block) -> None:
    """One value, or one after another."""
    rest = block.text.strip()
    while rest:
        _, end = json.JSONDecoder().raw_decode(rest)
        rest = rest[end:].strip()


@of("yaml")
def test_yaml_parses(block: Block) -> None:
    yaml = pytest.importorskip("yaml")
    assert isinstance(yaml.safe_load(block.text), dict | list)


@of("js")
def test_javascript_parses(block: Block, tmp_path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node")
    path = tmp_path / ("block.mjs" if "import " in block.text else "block.cjs")
    path.write_text(block.text, encoding="utf-8")
    checked = subprocess.run([node, "--check", path], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_only_read_languages_are_few() -> None:
    assert sum(block.language in ONLY_READ for block in BLOCKS) < 6
    assert ROOT.joinpath("README.md") in DOCUMENTS


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files_and_headings(document) -> None:
    """As GitHub shows them; those to other hosts are not looked up."""
    for target in blocks.find_links(document):
        path, _, anchor = target.partition("#")
        found = document.parent / path if path else document
        assert found.exists(), f"{document.name}: {target}"
        if anchor:
            assert anchor in blocks.find_anchors(found), f"{document.name}: {target}"
