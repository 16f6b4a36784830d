"""What a killed command left of a bundle: recognized by a marker inside, put back or removed by the next command.

    OUT.partial           a bundle that grows, or the older one after it was exchanged for the new one
    OUT.old.partial       the older bundle, where two directories cannot be exchanged: put back if OUT is missing
    OUT.<8 hex>.partial   a bundle that is being deleted

The marker is written before a directory gets such a name and is removed last of all, so that no leftover is without
it. Readers of bundles ignore it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from pathlib import Path

from edge_llava.home.regular_file import read_text

MARKER = ".edge-llava-converting"  # holds the id of the process that works here
_MARKER_BYTES = 64
_DOOMED = re.compile(r".+\.[0-9a-f]{8}\.partial")
_OLD = ".old.partial"


def growing(out: Path) -> Path:
    """Where the bundle `out` grows."""
    return out.with_name(f"{out.name}.partial")


def superseded(out: Path) -> Path:
    """Where the older bundle waits until the new one is in its place."""
    return out.with_name(f"{out.name}{_OLD}")


def mark(directory: Path) -> None:
    """Says that what lies here is ours, and that this process works on it."""
    (directory / MARKER).write_text(str(os.getpid()), encoding="utf-8")


def unmark(directory: Path) -> None:
    """Removes the marker, where there is one."""
    (directory / MARKER).unlink(missing_ok=True)


def is_marked(directory: Path) -> bool:
    """Whether one of our commands made or replaced this directory, and has not finished."""
    return os.path.isfile(directory / MARKER)


def is_at_work(directory: Path) -> bool:
    """Whether the process that marked a directory still runs."""
    if sys.platform == "win32":
        return False  # asking with signal 0 would end the process there
    try:
        process = int(read_text(directory / MARKER, _MARKER_BYTES))
        os.kill(process, 0)
    except PermissionError:
        return True  # it lives, and belongs to another user
    except (OSError, ValueError, OverflowError):
        return False
    return process != os.getpid()


def remove_marked(directory: Path) -> None:
    """Deletes a directory, its marker last; what the system refuses to delete stays, and so does the marker."""
    for path in _children(directory):
        if path.name == MARKER:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()
    if {path.name for path in _children(directory)} <= {MARKER}:
        with contextlib.suppress(OSError):
            unmark(directory)
            directory.rmdir()


def mend(out: Path) -> None:
    """Puts the older bundle back where a killed command left none, and removes what it left beside it.

    Directories that another process works on are left alone. What the system refuses is tried again next time.
    """
    if not out.name:  # the root of a file system
        return
    restore(out)
    if is_marked(out) and not is_at_work(out):
        with contextlib.suppress(OSError):
            unmark(out)
    for path in _children(out.parent):
        is_of_out = path == superseded(out) or (path.name.startswith(f"{out.name}.") and _DOOMED.fullmatch(path.name))
        if is_of_out and is_marked(path) and not is_at_work(path):
            remove_marked(path)


def restore(out: Path) -> None:
    """Puts the older bundle back where a killed command left none."""
    if not out.name:  # the root of a file system
        return
    old = superseded(out)
    with contextlib.suppress(OSError):
        if not os.path.lexists(out) and is_marked(old) and not is_at_work(old):
            old.rename(out)
            unmark(out)


def restore_all(directory: Path) -> None:
    """`restore` for every bundle of a directory."""
    for path in _children(directory):
        if path.name.endswith(_OLD):
            restore(path.with_name(path.name.removesuffix(_OLD)))


def remove_doomed(directory: Path) -> None:
    """Removes what a killed `models rm` left in a directory of bundles."""
    for path in _children(directory):
        if _DOOMED.fullmatch(path.name) and is_marked(path) and not is_at_work(path):
            remove_marked(path)


def _children(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except OSError:
        return []
