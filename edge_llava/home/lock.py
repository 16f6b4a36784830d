"""The one lock: a file that one process at a time, and one thread of it, holds. The system frees it with its owner.

A process that was killed holds nothing, and a process id that is used again blocks nothing. A file system without
locks, such as some network file systems, lets everyone in.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import FileIO
from pathlib import Path

_LOCKED_AT = 2**31 - 2  # Windows keeps all others from reading what is locked: a byte that none of our files reaches


class HeldElsewhere(OSError):
    """Another process, or another thread of this one, holds the lock."""


class NotRegular(OSError):
    """The path is a directory, a pipe or a device."""


@contextmanager
def hold(path: Path) -> Iterator[None]:
    """While inside, only this thread may change `path` and its companions; `<path>.lock` is held for that.

    Args:
        path: What is to be changed; it need not exist, its parent must. Readers hold nothing.

    Raises:
        HeldElsewhere: If it is held already; it is not waited for.
        OSError: If the lock cannot be created.
    """
    lock = path.with_name(f"{path.name}.lock")
    file, _ = open_held(lock)
    try:
        yield
    finally:
        close_and_remove(lock, file)


def is_held(path: Path) -> bool:
    """Whether another process, or thread, holds the lock of a path now."""
    if not os.path.exists(path.with_name(f"{path.name}.lock")):
        return False
    try:
        with hold(path):
            return False
    except HeldElsewhere:
        return True
    except OSError:
        return False  # it cannot be opened, for example in a home of others


def open_held(path: Path) -> tuple[FileIO, bool]:
    """Opens a file for reading and appending, and holds it until it is closed or the process ends.

    Args:
        path: Created if it does not exist.

    Returns:
        The file, unbuffered, and whether it was created.

    Raises:
        NotRegular: If it is not a regular file; it is not waited for.
        HeldElsewhere: If another process, or this one, holds it.
        OSError: If it cannot be opened.
    """
    while True:
        with ExitStack() as files:
            file, is_new = _open(path)
            files.enter_context(file)
            _check_regular(path, os.fstat(file.fileno()))
            if not _lock(file):
                raise HeldElsewhere(errno.EBUSY, "another process is writing it", str(path))
            if is_at(path, file):  # otherwise its owner removed it between opening and locking
                files.pop_all()
                return file, is_new


def close_and_remove(path: Path, file: FileIO) -> None:
    """Removes a held file, where it still lies at its path, and frees the lock."""
    with file, contextlib.suppress(FileNotFoundError):
        if os.name != "nt" and is_at(path, file):
            path.unlink()  # before the lock is free: no other process can hold it
    if os.name == "nt":  # which removes no open file
        with contextlib.suppress(PermissionError, FileNotFoundError):  # another process has opened it already
            path.unlink()


def is_at(path: Path, file: FileIO) -> bool:
    """Whether an open file is still the one at its path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _open(path: Path) -> tuple[FileIO, bool]:
    with contextlib.suppress(FileNotFoundError):
        _check_regular(path, os.stat(path))  # before it is opened: opening a pipe would wait
    try:
        return open(path, "ab+", buffering=0, opener=_create), True
    except FileExistsError:
        return open(path, "ab+", buffering=0, opener=_open_at_once), False


def _check_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise NotRegular(errno.EINVAL, "it is not a regular file", str(path))


def _create(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_EXCL, 0o666)


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)


if sys.platform == "win32":
    import msvcrt

    def _lock(file: FileIO) -> bool:
        """Whether the lock was free; it is this process's now."""
        file.seek(_LOCKED_AT)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True

else:
    import fcntl

    def _lock(file: FileIO) -> bool:
        """Whether the lock was free; it is this process's now. True, too, where there are no locks."""
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return True  # some network file systems
        return True
