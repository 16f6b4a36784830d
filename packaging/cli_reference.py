"""Writes docs/reference/cli.md: what every command of edge-llava says of itself with --help.

usage: python packaging/cli_reference.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from edge_llava.cli import cli
from edge_llava.cli.selftest import command as selftest

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "cli.md"
_COLUMNS = 100
_INTRODUCTION = """\
# Commands

<!-- Written by `python packaging/cli_reference.py`; change the commands instead. -->

Every command and option, as `--help` prints them. Only results are printed on stdout, so that they can be piped; notes
and progress are printed on stderr. The exit codes have [a page of their own](exit-codes.md).

| environment variable | |
|---|---|
| `EDGE_LLAVA_HOME` | the data directory, which holds bundles, cache and profiles |
| `EDGE_LLAVA_MODEL` | the bundle to use where `-m` is not given |
| `EDGE_LLAVA_CACHE` | the directory of the cache alone |
| `EDGE_LLAVA_NO_HISTORY=1` | `chat` keeps neither what is typed nor the conversation, as with `--no-history` |
| `EDGE_LLAVA_NO_CACHE=1` | `chat` stores and uses nothing, as with `--no-cache` |
| `EDGE_LLAVA_API_KEY` | the key that clients of `serve` must send |
| `EDGE_LLAVA_BACKENDS` | directories with [plug-ins of llama.cpp](../devices.md#plug-ins-of-llamacpp) |
| `EDGE_LLAVA_DEBUG=1` | tracebacks and the engines' own messages, as with `--debug` |
"""


def describe(command: click.Command, name: str, parent: click.Context | None = None) -> Iterator[str]:
    """Yields a section of Markdown for a command, and one for each of its visible commands."""
    context = click.Context(command, parent, name, terminal_width=_COLUMNS, **command.context_settings)
    context.max_content_width = _COLUMNS
    yield f"## {context.command_path}\n\n```text\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            if found is not None and not found.hidden:
                yield from describe(found, child, context)


def write_page() -> str:
    """The page's text."""
    sections = [*describe(cli, "edge-llava"), *describe(selftest, "edge-llava-selftest")]
    return "\n".join([_INTRODUCTION, *sections])


if __name__ == "__main__":
    PAGE.write_text(write_page(), encoding="utf-8")
