"""Names of commands: those that Ollama's users know, and what else an unknown one may mean."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence

import click

from edge_llava.demo import find_image

OTHER_NAMES_NOTE = "Names that Ollama's users know work too: run, list, ls, show and rm."
_SAME = {
    "list": ("models", "list"),
    "ls": ("models", "list"),
    "show": ("inspect",),
    "rm": ("models", "rm"),
}
_RUN = "run"
_WITH_BUNDLE_ARGUMENT = ("inspect", "verify", "fit")
_NO_PROCESS = (
    "edge-llava keeps no process in the background: a bundle is in memory while a command such as `chat` or `serve` "
    "runs, and Ctrl-C ends it."
)
_ABSENT = {
    "ps": f"{_NO_PROCESS} `edge-llava models list` shows the bundles.",
    "stop": _NO_PROCESS,
    "help": "All commands: edge-llava --help",
    "create": "To make a bundle: edge-llava convert CHECKPOINT",
}


def read_names(arguments: Sequence[str], known: Sequence[str], context: click.Context) -> list[str]:
    """The command line that the user means, with a command's own name at its beginning.

    Args:
        arguments: What was typed, from the command's name on; not empty.
        known: The commands' own names.
        context: Of the command line, for the error.

    Raises:
        click.UsageError: If there is no such command; says which one was meant, where that can be guessed.
    """
    name, *rest = arguments
    if name in known or name in _SAME:
        own, *others = _SAME.get(name, (name,))
        return [own, *others, *(_drop_option(rest) if own in _WITH_BUNDLE_ARGUMENT else rest)]
    if name == _RUN:
        return ["chat", *_read_bundle(rest)]
    if context.resilient_parsing:  # a shell asks what could follow
        return [name, *rest]
    if name in _ABSENT:
        raise click.UsageError(f"There is no command {name!r}. {_ABSENT[name]}", context)
    near = difflib.get_close_matches(name, [*known, *_SAME, _RUN], n=2)
    suggested = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise click.UsageError(f"No such command {name!r}.{suggested}", context)


def _read_bundle(arguments: Sequence[str]) -> Sequence[str]:
    """The arguments of `run`, whose first one is a bundle unless it is an option or an image."""
    if not arguments:
        return arguments
    first, *rest = arguments
    is_image = os.path.isfile(first) or find_image(first) is not None
    return arguments if first.startswith("-") or is_image else ["-m", first, *rest]


def _drop_option(arguments: Sequence[str]) -> Sequence[str]:
    """The arguments of a command that takes the bundle without an option, where it was named with one."""
    for option in ("-m", "--model"):
        if option in arguments[:-1]:
            at = arguments.index(option)
            return [*arguments[:at], *arguments[at + 1 :]]
    return arguments


def name_numbers(command: click.Command) -> None:
    """Gives options that take numbers the names N and X in the help, where click writes INTEGER RANGE, say."""
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.is_flag and parameter.metavar is None:
            if isinstance(parameter.type, type(click.INT)):
                parameter.metavar = "N"
            elif isinstance(parameter.type, type(click.FLOAT)):
                parameter.metavar = "X"
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            name_numbers(inner)
