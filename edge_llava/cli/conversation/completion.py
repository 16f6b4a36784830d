"""What Tab completes: commands, settings, names of bundles, and paths of images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from edge_llava.cli.conversation.pasted_paths import expand_home

Choices = Callable[[str], Iterable[str]]
"""What may stand in the place of the beginning of an argument."""


class CommandCompleter(Completer):
    """Completes a line of the conversation."""

    def __init__(self, arguments: Mapping[str, Choices | None]) -> None:
        """Takes the commands, each with what completes its argument."""
        self._arguments = arguments

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        """See `Completer`."""
        line = document.text_before_cursor
        name, separator, argument = line.partition(" ")
        if not separator and line.startswith("/") and "/" not in line[1:]:
            yield from _complete(line, (f"{name} " for name in self._arguments))
        if name in self._arguments and separator:
            choices = self._arguments[name]
            yield from _complete(argument, choices(argument) if choices is not None else ())
        elif "\n" not in line and (word := _last_word(line)) and (word[0] in "/~." or os.sep in word):
            yield from _complete(word, list_image_paths(word, protect=True))


def list_image_paths(start: str, *, protect: bool = False) -> list[str]:
    """Directories and image files whose path begins so.

    Args:
        start: The beginning of a path; "~" is the home.
        protect: Whether blanks are written with a backslash, in `start` and in what is returned.
    """
    from edge_llava.home.image_files.formats import SUFFIXES

    def has_suffix(name: str) -> bool:
        return os.path.splitext(name)[1].lower() in SUFFIXES

    return _list_paths(start, has_suffix, protect=protect)


def list_paths(start: str) -> list[str]:
    """Directories and files whose path begins so."""
    return _list_paths(start, lambda name: True, protect=False)


def list_bundle_names(start: str) -> list[str]:
    """Names of the user's bundles, and of the demo."""
    from edge_llava.demo import NAME
    from edge_llava.home.directories import list_bundles

    return sorted({path.name for path in list_bundles()} | {NAME})


def _list_paths(start: str, is_wanted: Callable[[str], bool], *, protect: bool) -> list[str]:
    plain = start.replace("\\ ", " ") if protect else start
    head, tail = os.path.split(plain)
    try:
        with os.scandir(expand_home(head) or ".") as entries:
            found = [
                entry.name + (os.sep if entry.is_dir() else "")
                for entry in entries
                if entry.name.startswith(tail)
                and (entry.is_dir() or is_wanted(entry.name))
                and (tail.startswith(".") or not entry.name.startswith("."))
            ]
    except (OSError, ValueError):  # of a null character
        return []
    paths = sorted(os.path.join(head, name) for name in found if name.isprintable())
    return [path.replace(" ", "\\ ") for path in paths] if protect else paths


def _last_word(line: str) -> str:
    return line.replace("\\ ", "\0\0").rpartition(" ")[2].replace("\0\0", "\\ ")


def _complete(start: str, choices: Iterable[str]) -> Iterator[Completion]:
    for choice in choices:
        if choice.startswith(start):
            yield Completion(
                choice, start_position=-len(start), display=os.path.basename(choice.rstrip(os.sep)) or choice
            )
