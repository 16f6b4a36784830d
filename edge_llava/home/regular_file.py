"""Regular files: opening those of unknown origin, up to a size, and giving new ones the permissions that umask leaves.

A FIFO or device in the place of a file would block the reader, or never end.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

MAX_TEXT_BYTES = 16 << 20  # manifests, profiles and the like have some kilobytes


def open_regular(path: str | os.PathLike[str], max_bytes: int | None = None) -> BufferedReader:
    """Opens a file to read its bytes; never blocks.

    Args:
        path: The file. A link to one is followed.
        max_bytes: Refuse a larger one.

    Raises:
        OSError: If there is no such file, it is not a regular file, or it is too large.
    """
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
    descriptor = os.open(path, flags)  # without O_NONBLOCK a FIFO would be waited for
    status = os.fstat(descriptor)
    fault = None
    if stat.S_ISDIR(status.st_mode):
        fault = OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    elif not stat.S_ISREG(status.st_mode):
        fault = OSError(errno.EINVAL, "it is not a regular file", str(path))
    elif max_bytes is not None and status.st_size > max_bytes:
        fault = OSError(errno.EFBIG, f"it has {status.st_size} bytes, at most {max_bytes} are read", str(path))
    if fault is not None:
        os.close(descriptor)
        raise fault
    return open(descriptor, "rb")


def sign(status: os.stat_result) -> tuple[int, int, int]:
    """What changes when a file is written to or replaced: its size in bytes, its time in ns, and its inode."""
    return status.st_size, status.st_mtime_ns, status.st_ino


def read_text(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Reads a small file of UTF-8 text.

    Raises:
        OSError: As `open_regular`.
        UnicodeDecodeError: If it is not UTF-8.
    """
    with open_regular(path, max_bytes) as file:
        return file.read(max_bytes).decode("utf-8")


def read_input(path: Path, max_bytes: int | None = None) -> bytes:
    """Reads a file that a user names: a regular one, or a pipe as of a shell's `<(command)`.

    Raises:
        OSError: If there is no such file, it is a device, which may never end, or it is too large.
    """
    with path.open("rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            raise OSError(errno.EINVAL, "it is a device", str(path))
        data = file.read() if max_bytes is None else file.read(max_bytes + 1)
    if max_bytes is not None and len(data) > max_bytes:
        raise OSError(errno.EFBIG, f"it has more than {max_bytes} bytes, the limit", str(path))
    return data


def share_permissions(directory: Path, *, like: Path) -> None:
    """Gives every file of a directory, at any depth, the permissions of one that was written in the ordinary way.

    onnx and safetensors make theirs private whatever the umask.
    """
    mode = stat.S_IMODE(like.stat().st_mode)
    for path in directory.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)
