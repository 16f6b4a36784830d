"""A caption as a file beside its picture, as trainers of image models read it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from edge_llava.home import write_atomically


class Sidecars:
    """Where the caption of each picture goes: of a.jpg to a.txt; of a.jpg beside a.png to a.jpg.txt and a.png.txt.

    Attributes:
        n_written: Files written.
        n_kept: Files that were there with another text, and stayed as they were.
    """

    def __init__(self, directory: Path, names: Sequence[str], *, suffix: str, overwrite: bool) -> None:
        """
        Args:
            directory: The folder.
            names: Paths of all its pictures, relative to it.
            suffix: ".txt" or ".json".
            overwrite: Replace what is there.
        """
        self._directory, self._suffix, self._overwrite = directory, suffix, overwrite
        self._n_of_stem = Counter(str(PurePosixPath(name).with_suffix("")) for name in names)
        self.n_written = self.n_kept = 0

    def write(self, name: str, answer: Any) -> None:
        """Writes the answer about a picture, by rename.

        Raises:
            OSError: If it cannot be written.
        """
        text = answer if self._suffix == ".txt" else json.dumps(answer, ensure_ascii=False, indent=2)
        text = f"{text}\n".encode("utf-8", "backslashreplace").decode()  # JSON may hold halves of characters
        path = self._directory / self._name(name)
        if path.exists():
            is_same = path.read_bytes().replace(b"\r\n", b"\n") == text.encode()
            if is_same or not self._overwrite:
                self.n_kept += not is_same
                return
        write_atomically(path, text)
        self.n_written += 1

    def _name(self, name: str) -> str:
        stem = str(PurePosixPath(name).with_suffix(""))
        return (stem if self._n_of_stem[stem] == 1 else name) + self._suffix
