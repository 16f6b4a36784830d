"""The pictures of a folder: found by name, everywhere below it, each directory once."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from edge_llava.errors import ImageError

# What cameras, phones and the web write. HEIC is among them so that it is reported where PIL cannot read it.
SUFFIXES = frozenset(
    (
        ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".avif", ".avifs",
        ".heic", ".heif", ".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".tga",
    )
)  # fmt: skip
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Fault:
    """A file or directory that could not be used: its path relative to the folder, and why."""

    path: str
    reason: str


@dataclass
class Folder:
    """What a walk through a folder found.

    Attributes:
        directory: The folder.
        names: Paths of the pictures relative to it, with forward slashes, sorted.
        faults: Directories that cannot be listed, and names of pictures that are no files.
    """

    directory: Path
    names: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def path(self, name: str) -> Path:
        """Where a picture lies."""
        return self.directory / name


def find_pictures(directory: Path, *, leave_out: Path) -> Folder:
    """Walks through a folder.

    Links to files and directories are followed; a directory that is reached twice, or within itself, is read once, by
    its own name where it has one in the folder. Names that begin with a dot are passed over.

    Args:
        directory: The folder.
        leave_out: A file that is no picture, whatever its name.

    Raises:
        ImageError: If it holds no picture at all.
    """
    folder, own = Folder(directory), os.path.realpath(leave_out)
    for entry in _walk(folder):
        if os.path.splitext(entry.name)[1].lower() in SUFFIXES and os.path.realpath(entry.path) != own:
            name = _name(entry.path, directory)
            fault = _find_fault(entry.path)
            if fault is None:
                folder.names.append(name)
            else:
                folder.faults.append(Fault(name, fault))
    folder.names.sort()
    if not folder.names:
        shown = "".join(f" {fault.path}: {fault.reason}." for fault in folder.faults[:3])
        raise ImageError(f"{directory} holds no pictures (.jpg .png .webp ...).{shown} Name a folder of pictures.")
    return folder


def digest_file(path: Path) -> str:
    """sha256 (hex) of a file's bytes, read piece by piece."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _walk(folder: Folder) -> Iterator[os.DirEntry[str]]:
    """Every entry that is no directory; directories that are links come after all others."""
    pending, links, seen = deque([str(folder.directory)]), deque[str](), set[tuple[int, int] | str]()
    while pending or links:
        path = pending.popleft() if pending else links.popleft()
        try:
            known_by = _identity(path)
            if known_by in seen:
                continue
            seen.add(known_by)
            with os.scandir(path) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            folder.faults.append(Fault(_name(path, folder.directory), f"it cannot be listed: {error.strerror}"))
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_directory(entry):
                (links if entry.is_symlink() else pending).append(entry.path)
            else:
                yield entry


def _identity(path: str) -> tuple[int, int] | str:
    """What a directory is known by, whatever the way to it: some file systems number every file 0."""
    status = os.stat(path)
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)


def _find_fault(path: str) -> str | None:
    """Why something with a picture's name is no file; opening a pipe would wait for ever."""
    try:
        return None if stat.S_ISREG(os.stat(path).st_mode) else "it is no ordinary file"
    except OSError as error:
        leads_nowhere = error.errno in (errno.ENOENT, errno.ELOOP) and os.path.islink(path)
        return f"{'it is a link that leads nowhere' if leads_nowhere else 'it cannot be read'}: {error.strerror}"


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _name(path: str, directory: Path) -> str:
    return Path(path).relative_to(directory).as_posix()
