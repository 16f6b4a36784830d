"""How files are written and identified: whole or not at all, and by their sha256."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from edge_llava.home.regular_file import open_regular

PARTIAL = re.compile(r"[0-9a-f]{16}\.partial")  # the name of a file that is being written
_ABANDONED_S = 3600.0  # what has not been written to for so long was left by a process that was killed
_CHUNK_BYTES = 1 << 22


@contextmanager
def atomic_file(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A new file that takes the name `path` when the block ends, and disappears if it ends by an exception.

    Readers see the old file or the new one, never a part. A process that is killed leaves the old one, and next to it a
    file whose name matches PARTIAL. Nothing is synchronized with the disk: after a power failure, the file may be
    empty.

    Args:
        path: Replaced if it exists. A link is replaced, not followed. Its directory must exist.
        mode: Permissions of the new file, before umask.

    Raises:
        OSError: If the directory cannot be written, the disk is full, or `path` is a directory.
    """
    partial = path.with_name(f"{uuid.uuid4().hex[:16]}.partial")  # short: the target's name may be as long as can be
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        with open(os.open(partial, flags, mode), "wb") as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a small text file as `atomic_file` does; its directory is made if it does not exist.

    Raises:
        OSError: As `atomic_file`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write(text.encode())


def sync_to_disk(paths: Iterable[Path]) -> None:
    """Waits until files and directories are on the disk: a power failure afterwards loses none of them.

    Args:
        paths: Of a directory, only its list of names is synchronized, on systems and file systems that can do so.

    Raises:
        OSError: If the disk refuses what was written.
    """
    on_windows = os.name == "nt"  # it synchronizes what is open for writing, and opens no directories
    for path in paths:
        is_directory = path.is_dir()
        if is_directory and on_windows:
            continue
        descriptor = os.open(path, os.O_RDWR if on_windows else os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if not is_directory or error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(descriptor)


def remove_abandoned(directory: Path) -> None:
    """Removes what killed processes left of `atomic_file` in a directory; what the system refuses stays."""
    with contextlib.suppress(OSError):
        for path in directory.iterdir():
            if PARTIAL.fullmatch(path.name) and path.stat().st_mtime < time.time() - _ABANDONED_S:
                path.unlink()


def digest_file(path: Path, on_read: Callable[[int], None] | None = None) -> str:
    """The sha256 (64 hex digits) of a regular file.

    Args:
        path: Read in chunks, so that its size does not matter.
        on_read: Called with the number of bytes of each chunk.

    Raises:
        OSError: If it cannot be read.
    """
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            if on_read is not None:
                on_read(len(chunk))
    return digest.hexdigest()
