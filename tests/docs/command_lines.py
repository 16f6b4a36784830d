"""Whether commands exist, as far as can be said without running them."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from blocks import ROOT

from edge_llava.cli import cli
from edge_llava.cli.selftest import command as selftest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = None

OWN: dict[str, click.Command] = {"edge-llava": cli, "edge-llava-selftest": selftest}
# Programs of others: nothing is known about their options.
OTHERS = {
    ".", "cd", "cmake", "curl", "docker", "echo", "edgeScriptsactivate", "git", "jupyter", "llama-mtmd-cli", "llm",
    "./MyApp", "pipx", "py", "pyinstaller", "rm", "rpc-server", "rsync", "ssh", "sudo", "tar", "uv", "xcode-select",
}  # fmt: skip


def check_command(words: Sequence[str], *, complete: bool = True) -> None:
    """Fails if a command, an option, a file of the repository or an extra does not exist.

    Args:
        words: The command's.
        complete: Whether required arguments must be given.
    """
    name, *rest = words
    if name in OWN:
        given = [word for word in rest if word != "..."]
        command = OWN[name]
        context = click.Context(command, info_name=name, **command.context_settings)
        _check_own(command, context, given, complete and given == rest)
    elif name == "pip":
        _check_extras(rest)
    elif name == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert set(rest) <= set(targets), f"the Makefile has no {rest}"
    elif name in ("python", "python3"):
        _check_script(rest)
    else:
        assert name in OTHERS, f"{name} is no command of ours; if it is another program, add it to OTHERS"


def _check_own(command: click.Command, context: click.Context, words: list[str], complete: bool) -> None:
    if isinstance(command, click.Group) and words and not words[0].startswith("-"):
        try:
            name, child, rest = command.resolve_command(context, words)  # which also knows Ollama's names
        except click.UsageError as error:
            raise AssertionError(f"{context.command_path}: {error.message}") from error
        assert child is not None
        _check_own(child, click.Context(child, context, name), rest, complete)
        return
    values, rest, _ = command.make_parser(context).parse_args(list(words))
    assert not rest or isinstance(command, click.Group), f"{context.command_path}: unexpected {rest}"
    for parameter in command.get_params(context):
        value = values.get(parameter.name or "")
        is_missing = value is None or value is click.core.UNSET or value == ()
        if is_missing:
            assert not (complete and parameter.required), f"{context.command_path}: {parameter.name} is missing"
        elif not isinstance(parameter.type, click.Path | click.File):  # the reader's files are not here
            parameter.type_cast_value(context, value)


def _check_extras(words: list[str]) -> None:
    """Of `pip install '.[cpu,serve]'`."""
    if tomllib is None:
        return
    extras: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
        "optional-dependencies"
    ]
    for word in words:
        if found := re.fullmatch(r"(?:\.|edge-llava)\[([\w,-]+)\]", word):
            assert set(found[1].split(",")) <= extras.keys(), f"there is no such extra: {word}"


def _check_script(words: list[str]) -> None:
    """Of `python benchmarks/limits.py --rounds 3`: the script, and whether its text has these options."""
    if words[0] == "-m":
        return
    found = [path for path in (ROOT / words[0], ROOT / "benchmarks" / words[0]) if path.is_file()]
    assert found, f"there is no {words[0]}"
    text = _text_with_imports(found[0])
    for word in words[1:]:
        if word.startswith("--"):
            assert f'"{word.split("=")[0]}"' in text, f"{words[0]} has no option {word}"


def _text_with_imports(script: Path) -> str:
    text = script.read_text(encoding="utf-8")
    names = re.findall(r"^(?:from|import) (\w+)", text, re.MULTILINE)
    beside = (script.parent / f"{name}.py" for name in names)
    return "\n".join([text, *(path.read_text(encoding="utf-8") for path in beside if path.is_file())])
