"""A caption as a file beside its picture, as trainers of image models read it."""

from __future__ import annotations

import errno
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from edge_llava.errors import EdgeLlavaError
from edge_llava.home.directories import write_atomically

_MAX_LINKS = 40  # that a system follows, one after another


class Sidecars:
    """Where the caption of each picture goes: of a.jpg to a.txt; of a.jpg beside a.png to a.jpg.txt and a.png.txt.

    The long name is also taken where the short one is the output's, or that of the file that a picture is a link to.

    Attributes:
        n_written: Files written.
        n_kept: Files that were there with another text, and stayed as they were.
    """

    def __init__(self, directory: Path, names: Sequence[str], out: Path, *, suffix: str, overwrite: bool) -> None:
        """
        Args:
            directory: The folder.
            names: Paths of all its pictures, relative to it.
            out: The output; it may not be there yet.
            suffix: ".txt" or ".json".
            overwrite: Replace what is there.

        Raises:
            EdgeLlavaError: If only the output, or a picture, could be the file beside some picture.
        """
        self._directory, self._suffix, self._overwrite = directory, suffix, overwrite
        links = (path for path in (os.path.join(directory, name) for name in names) if os.path.islink(path))
        self._reserved = {_key(place) for path in (str(out), *links) for place in _places(path)}
        self._reserved_names = {os.path.basename(place) for place in self._reserved}
        self._targets = self._assign(names)
        self.n_written = self.n_kept = 0

    def write(self, name: str, answer: Any) -> None:
        """Writes the answer about a picture, by rename.

        Raises:
            OSError: If it cannot be written.
        """
        text = answer if self._suffix == ".txt" else json.dumps(answer, ensure_ascii=False, indent=2)
        text = f"{text}\n".encode("utf-8", "backslashreplace").decode()  # JSON may hold halves of characters
        path = self._directory / self._targets[name]
        if path.exists():
            if not path.is_file() and not path.is_dir():  # a pipe would be read for ever
                raise FileExistsError(errno.EEXIST, "something that is no file has its name")
            is_same = path.read_bytes().replace(b"\r\n", b"\n") == text.encode()
            if is_same or not self._overwrite:
                self.n_kept += not is_same
                return
        write_atomically(path, text)
        self.n_written += 1

    def _assign(self, names: Sequence[str]) -> dict[str, str]:
        """The file beside each picture. A short name is nobody's long one, so long ones are always free."""
        short = {name: f"{PurePosixPath(name).with_suffix('')}{self._suffix}" for name in names}
        n_of_key = Counter(_key(target) for name in names for target in (short[name], name + self._suffix))
        targets = {}
        for name in names:
            is_free = n_of_key[_key(short[name])] == 1 and not self._is_reserved(short[name])
            targets[name] = short[name] if is_free else name + self._suffix
            if not is_free and self._is_reserved(targets[name]):
                raise EdgeLlavaError(
                    f"{self._directory / targets[name]} would be the file beside {name}, and is the output or a "
                    "picture. Choose another output with -o, rename the picture, or leave out --sidecar."
                )
        return targets

    def _is_reserved(self, target: str) -> bool:
        if _key(PurePosixPath(target).name) not in self._reserved_names:
            return False  # nearly always, and the disk need not be asked
        return _key(_place(os.path.join(self._directory, target))) in self._reserved


def _key(path: str) -> str:
    """The same for names that are one on a file system that does not tell letters apart by case, or by composition."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", path).casefold())


def _place(path: str) -> str:
    """Where a name really lies; the file that it may be a link to is another."""
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def _places(path: str) -> Iterator[str]:
    """A name's place, and those of all that it leads to as a link."""
    for _ in range(_MAX_LINKS):
        place = _place(path)
        yield place
        if not os.path.islink(place):
            return
        path = os.path.join(os.path.dirname(place), os.readlink(place))
