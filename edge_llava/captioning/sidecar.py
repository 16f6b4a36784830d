"""Captions as files next to their images, the layout that trainers of image models read."""

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
from edge_llava.home.files import write_text

_MAX_LINKS = 40  # that an operating system follows in a chain


class Sidecars:
    """Decides where each caption goes: a.txt for a.jpg, but a.jpg.txt and a.png.txt if a.jpg and a.png share a folder.

    The long name is also used if the short one is the output, or the target of an image that is a link.

    Attributes:
        n_written: Files written.
        n_kept: Existing files with other text that were left unchanged.
    """

    def __init__(self, directory: Path, names: Sequence[str], out: Path, *, suffix: str, overwrite: bool) -> None:
        """
        Args:
            directory: The folder.
            names: Paths of all images, relative to the folder.
            out: The output, which need not exist yet.
            suffix: ".txt" or ".json".
            overwrite: Replace existing files.

        Raises:
            EdgeLlavaError: If a caption's only possible name belongs to the output or to an image.
        """
        self._directory, self._suffix, self._overwrite = directory, suffix, overwrite
        links = (path for path in (os.path.join(directory, name) for name in names) if os.path.islink(path))
        self._reserved = {_key(place) for path in (str(out), *links) for place in _places(path)}
        self._reserved_names = {os.path.basename(place) for place in self._reserved}
        self._targets = self._assign(names)
        self.n_written = self.n_kept = 0

    def write(self, name: str, answer: Any) -> None:
        """Writes the answer about an image atomically.

        Raises:
            OSError: If it cannot be written.
        """
        text = answer if self._suffix == ".txt" else json.dumps(answer, ensure_ascii=False, indent=2)
        text = f"{text}\n".encode("utf-8", "backslashreplace").decode()  # JSON may contain unpaired surrogates
        path = self._directory / self._targets[name]
        if path.exists():
            if not path.is_file() and not path.is_dir():  # reading a pipe would block for ever
                raise FileExistsError(errno.EEXIST, "its name belongs to something that is not a regular file")
            is_same = path.read_bytes().replace(b"\r\n", b"\n") == text.encode()
            if is_same or not self._overwrite:
                self.n_kept += not is_same
                return
        write_text(path, text)
        self.n_written += 1

    def _assign(self, names: Sequence[str]) -> dict[str, str]:
        """Maps each image to its sidecar file. No short name equals a long one, so long names are always free."""
        short = {name: f"{PurePosixPath(name).with_suffix('')}{self._suffix}" for name in names}
        n_of_key = Counter(_key(target) for name in names for target in (short[name], name + self._suffix))
        targets = {}
        for name in names:
            is_free = n_of_key[_key(short[name])] == 1 and not self._is_reserved(short[name])
            targets[name] = short[name] if is_free else name + self._suffix
            if not is_free and self._is_reserved(targets[name]):
                raise EdgeLlavaError(
                    f"{self._directory / targets[name]} would be the sidecar of {name}, but it is the output or "
                    "an image. Choose another output with -o, rename the image, or leave out --sidecar."
                )
        return targets

    def _is_reserved(self, target: str) -> bool:
        if _key(PurePosixPath(target).name) not in self._reserved_names:
            return False  # the common case, which needs no disk access
        return _key(_place(os.path.join(self._directory, target))) in self._reserved


def _key(path: str) -> str:
    """A key that is equal for names that a case- or normalization-insensitive file system takes for one."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", path).casefold())


def _place(path: str) -> str:
    """Resolves the directory of a path, but not the file itself, which may be a link."""
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def _places(path: str) -> Iterator[str]:
    """Yields the resolved place of a path, and of everything that it links to."""
    for _ in range(_MAX_LINKS):
        place = _place(path)
        yield place
        if not os.path.islink(place):
            return
        path = os.path.join(os.path.dirname(place), os.readlink(place))
