"""Files that a command writes, whose names must not promise another format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


class OutFile(click.Path):
    """A file to write. A suffix of another format is a usage error; a name without a suffix is taken as it is."""

    def __init__(self, *suffixes: str, what: str) -> None:
        """
        Args:
            suffixes: Those that tell the truth, in lower case: ".json".
            what: What is written, for the error: "captions".
        """
        super().__init__(dir_okay=False, path_type=Path)
        self._suffixes, self._what = suffixes, what

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path."""
        suffix = Path(value).suffix.lower()
        if suffix and suffix not in self._suffixes:
            formats = " or ".join(self._suffixes)
            self.fail(f"{str(value)!r}: {self._what} cannot be written as {suffix}, only as {formats}.", param, ctx)
        return super().convert(value, param, ctx)
