"""A file that one run at a time may write: who opens it holds it until it is closed."""

from __future__ import annotations

import os
import stat
import sys
from contextlib import ExitStack
from io import FileIO
from pathlib import Path

_LOCKED_AT = 2**31 - 2  # Windows lets nobody else read what is locked: a byte that no output reaches


class HeldElsewhere(Exception):
    """Another run holds the file. Never leaves captioning."""


class NoOrdinaryFile(Exception):
    """A directory, a pipe or a device. Never leaves captioning."""


def open_alone(path: Path) -> tuple[FileIO, bool]:
    """Opens a file for reading and appending, and holds it until it is closed or the process ends.

    Where a file system knows no locks, it is held by nobody.

    Args:
        path: Created if it is not there.

    Returns:
        The file, unbuffered, and whether it was created.

    Raises:
        NoOrdinaryFile: If it is none; it is not waited for.
        HeldElsewhere: If another run, or this one, has it open.
        OSError: If it cannot be opened.
    """
    while True:
        with ExitStack() as files:
            file, is_new = _open(path)
            files.enter_context(file)
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise NoOrdinaryFile
            _lock(file)
            if is_at(path, file):  # otherwise, who held it took it away before it was locked here
                files.pop_all()
                return file, is_new


def is_at(path: Path, file: FileIO) -> bool:
    """Whether an open file is still the one that lies there."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _open(path: Path) -> tuple[FileIO, bool]:
    if path.exists() and not path.is_file():
        raise NoOrdinaryFile  # opening a pipe would wait for its other end
    try:
        return open(path, "ab+", buffering=0, opener=_create), True
    except FileExistsError:
        return open(path, "ab+", buffering=0, opener=_open_at_once), False


def _create(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_EXCL, 0o666)


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)


if sys.platform == "win32":
    import msvcrt

    def _lock(file: FileIO) -> None:
        file.seek(_LOCKED_AT)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise HeldElsewhere from error

else:
    import fcntl

    def _lock(file: FileIO) -> None:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise HeldElsewhere from error
        except OSError:
            pass  # no locks here, as on some network file systems
