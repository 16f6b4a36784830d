"""The code in README.md and docs/: its blocks, their languages, and the commands in a shell's block."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
GENERATED = ROOT / "docs" / "reference" / "cli.md"  # its blocks are what --help prints
# Lines of a shell's block that are printed there, not typed.
PRINTED = (r"\S+ is served\. Ctrl-C stops it\.$", r"(API|page|key): +http", r"photo\.jpg: \d+ tiles")
_PROMPT = re.compile(r"^\w+\$ +")  # where a block concerns two computers
_ASSIGNMENT = re.compile(r"\w+=.*", re.DOTALL)
_HERE_DOCUMENT = re.compile(r"<<(\w+)$")
_OPERATORS = {"&&", "|", ";", "&"}


@dataclass(frozen=True)
class Block:
    """A block of code: "docs/server.md:6", its language, and its text."""

    place: str
    language: str
    text: str


@dataclass(frozen=True)
class Line:
    """What a shell reads at once: its text with continuations and here-document, and its commands' words.

    Assignments before a command are left out; `pipes_text` is what an `echo` sends to the line's last command.
    """

    text: str
    commands: tuple[tuple[str, ...], ...]
    pipes_text: str | None = None


def find_blocks(document: Path) -> Iterator[Block]:
    """Yields the blocks of a document, fenced and indented."""
    place = document.relative_to(ROOT).as_posix()
    for token in MarkdownIt("commonmark").parse(document.read_text(encoding="utf-8")):
        if token.type in ("fence", "code_block"):
            assert token.map is not None
            language = token.info.strip() or guess_language(token.content)
            yield Block(f"{place}:{token.map[0] + 1}", language, token.content)


def find_inline_commands(document: Path) -> Iterator[str]:
    """Yields the commands in a document's text: `edge-llava cache info`."""
    for token in MarkdownIt("commonmark").enable("table").parse(document.read_text(encoding="utf-8")):
        for child in token.children or ():
            if child.type == "code_inline" and re.match(r"edge-llava(-selftest)? ", child.content):
                yield child.content


def find_links(document: Path) -> Iterator[str]:
    """Yields the targets of links and images, but for those on other hosts."""
    for token in MarkdownIt("commonmark").enable("table").parse(document.read_text(encoding="utf-8")):
        for child in token.children or ():
            target = child.attrs.get("href") or child.attrs.get("src")
            if isinstance(target, str) and not re.match(r"[a-z]+:", target):
                yield target


def find_anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them: "Ollama's API" is "ollamas-api"."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def guess_language(text: str) -> str:
    """The language of an indented block, which names none."""
    if text.startswith("{"):
        return "json"
    return "python" if re.match(r"(import|from|with|async) ", text) else "shell"


def read_lines(text: str) -> Iterator[Line]:
    """Yields what a shell would read, without comments and what is printed."""
    rows = iter(re.sub(r"\\\n\s*", "", text).splitlines())
    for row in rows:
        shown = _PROMPT.sub("", row.strip())
        if not shown or any(re.match(pattern, shown) for pattern in PRINTED):
            continue
        found = _HERE_DOCUMENT.search(shown)
        reader = shlex.shlex(_HERE_DOCUMENT.sub("", shown), posix=True, punctuation_chars=True)
        reader.whitespace_split = True
        words = list(reader)
        if found:
            body = []
            while (part := next(rows)) != found[1]:
                body.append(part)
            shown = "\n".join([shown, *body, found[1]])
        commands = tuple(_split(words))
        if commands:
            is_piped = "|" in words and commands[0][0] == "echo"
            yield Line(shown, commands, " ".join(commands[0][1:]) if is_piped else None)


def _split(words: list[str]) -> Iterator[tuple[str, ...]]:
    command: list[str] = []
    for word in [*words, ";"]:
        if word in _OPERATORS:
            if command:
                yield tuple(command)
            command = []
        elif command or not _ASSIGNMENT.fullmatch(word):
            command.append(word)
