"""What was typed in earlier conversations, kept in the home for the arrow keys and Ctrl-R."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from prompt_toolkit.history import FileHistory, History, InMemoryHistory

from edge_llava.home.directories import has_home, home_directory


def open_history(*, is_kept: bool) -> History:
    """The history file, readable by this user only; where it cannot be kept, a history that ends with the program."""
    if not is_kept or not has_home():
        return InMemoryHistory()
    path = home_directory() / "history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    except OSError:
        return InMemoryHistory()
    return _LenientHistory(path)


class _LenientHistory(FileHistory):
    def __init__(self, path: Path) -> None:
        super().__init__(str(path))

    def store_string(self, string: str) -> None:
        """Writes a line; a full disk ends no conversation."""
        with contextlib.suppress(OSError, UnicodeEncodeError):
            super().store_string(string)
