"""Directories that appear whole or not at all: bundles, trained checkpoints, data sets.

    OUT.partial       a directory that grows; or the older one, after it was exchanged for the new one, or is deleted
    OUT.old.partial   the older directory, where two cannot be exchanged: put back if OUT is missing
    OUT.download.partial   a directory that grows over several commands; it bears no marker, and stays until it is whole
    OUT.lock          held by the process that changes any of these; see `edge_llava.home.lock`

A marker inside says that a directory is ours. It is written before a directory gets such a name and is removed last of
all. What bears it while the lock is free was left by a process that was killed: the next command puts it back or
removes it. Readers ignore it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_llava.home.exchange import exchange
from edge_llava.home.lock import HeldElsewhere, hold, is_held

MARKER = ".edge-llava-unfinished"
_GROWING, _OLD = ".partial", ".old.partial"
_RESUMED = ".download.partial"


class InTheWay(OSError):
    """`<out>.partial` exists, and edge-llava did not leave it."""


class NotReplaced(OSError):
    """The new directory cannot take the place of the older one, which is still there."""


@contextmanager
def atomic_directory(out: Path, *, overwrite: bool) -> Iterator[Path]:
    """A new, empty directory that takes the name `out` when the block ends, and disappears if an exception ends it.

    Whenever the process is killed, `out` is the older directory or the new one, or `restore` puts the older one back.

    Args:
        out: Its parent is made if it does not exist. It may be an empty directory.
        overwrite: Replace `out` if it is not empty.

    Raises:
        HeldElsewhere: If another process is changing `out`.
        InTheWay: If something that is not ours has the name of the growing directory.
        NotReplaced: If the new one cannot take the place of an older one.
        OSError: If something cannot be written.
    """
    growing = _growing(out)
    growing.parent.mkdir(parents=True, exist_ok=True)
    with hold(out):
        _mend(out)
        _make(growing)
        try:
            (growing / MARKER).touch()
            yield growing
            _publish(growing, out, overwrite=overwrite)
        finally:
            _remove(growing)  # what failed, or the older one


@contextmanager
def resumable_directory(out: Path, *, overwrite: bool) -> Iterator[Path]:
    """As `atomic_directory`, but what an exception or a kill leaves stays, and the next command for `out` gets it.

    Args:
        out: As of `atomic_directory`.
        overwrite: Replace `out` if it is not empty.

    Raises:
        HeldElsewhere, InTheWay, NotReplaced, OSError: As `atomic_directory`.
    """
    growing = resumable_path(out)
    growing.parent.mkdir(parents=True, exist_ok=True)
    with hold(out):
        _mend(out)
        _remove_if_marked(growing)  # an older one that was exchanged for the new one
        if os.path.lexists(growing) and (growing.is_symlink() or not growing.is_dir()):
            raise InTheWay(errno.EEXIST, "it is in the way, and edge-llava did not create it", str(growing))
        growing.mkdir(exist_ok=True)
        yield growing
        _publish(growing, out, overwrite=overwrite)
        _remove(growing)  # the older one


def resumable_path(out: Path) -> Path:
    """Where `resumable_directory` keeps what is not whole yet."""
    return out.with_name(f"{out.name}{_RESUMED}")


def list_resumable(directory: Path) -> list[Path]:
    """The names in a directory for which `resumable_directory` keeps something, and which no process is changing."""
    kept = [path for path in _children(directory) if path.name.endswith(_RESUMED) and not _is_marked(path)]
    names = [path.with_name(path.name.removesuffix(_RESUMED)) for path in kept]
    return [out for out in names if out.name and not is_held(out)]


def remove_directory(out: Path) -> Path | None:
    """Deletes a directory. It loses its name first: half of it is never seen under that name.

    Returns:
        Where the rest of it is, if only a part could be deleted.

    Raises:
        HeldElsewhere: If another process is changing `out`.
        OSError: If nothing of it can be deleted.
    """
    growing = _growing(out)
    with hold(out):
        _mend(out)
        (out / MARKER).touch()
        try:
            out.rename(growing)
        except OSError:
            _unmark(out)
            raise
        _remove(growing)
    return growing if growing.exists() else None


def mend(out: Path) -> None:
    """Puts the older directory back where a killed process left none, and removes what else it left.

    What the system refuses is tried again next time.

    Raises:
        HeldElsewhere: If another process is changing `out`.
    """
    if not out.name:  # the root of a file system
        return
    if any(_is_marked(path) for path in (out, _growing(out), _superseded(out))):
        try:
            with hold(out):
                _mend(out)
        except HeldElsewhere:
            raise
        except OSError:
            pass


def restore(out: Path) -> None:
    """Puts the older directory back where a killed process left none."""
    if out.name and _is_missing(out):
        with contextlib.suppress(OSError), hold(out):
            _restore(out)


def restore_all(directory: Path) -> None:
    """`restore` for every name in a directory."""
    for path in _children(directory):
        if path.name.endswith(_OLD):
            restore(path.with_name(path.name.removesuffix(_OLD)))


def mend_all(directory: Path) -> None:
    """`mend` for every name in a directory that no other process is changing."""
    for path in _children(directory):
        if path.name.endswith(_GROWING) and _is_marked(path):
            with contextlib.suppress(HeldElsewhere):
                mend(path.with_name(path.name.removesuffix(_GROWING).removesuffix(".old")))


def _growing(out: Path) -> Path:
    return out.with_name(f"{out.name}{_GROWING}")


def _superseded(out: Path) -> Path:
    return out.with_name(f"{out.name}{_OLD}")


def _is_marked(directory: Path) -> bool:
    return os.path.isfile(directory / MARKER)  # pathlib's own raises where a name is too long


def _is_missing(out: Path) -> bool:
    return not os.path.lexists(out) and _is_marked(_superseded(out))


def _unmark(directory: Path) -> None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        (directory / MARKER).unlink()


def _make(growing: Path) -> None:
    if os.path.lexists(growing) and (not growing.is_dir() or any(growing.iterdir())):
        reason = "it cannot be removed" if _is_marked(growing) else "edge-llava did not create it"
        raise InTheWay(errno.EEXIST, f"it is in the way, and {reason}", str(growing))
    growing.mkdir(exist_ok=True)


def _publish(growing: Path, out: Path, *, overwrite: bool) -> None:
    """Gives the finished directory its name; an older one ends at the name of the growing one, or is deleted."""
    if os.path.isdir(out) and not any(out.iterdir()):
        out.rmdir()  # Windows would not rename onto it
    if not os.path.lexists(out):
        growing.rename(out)
        _unmark(out)
        return
    if not overwrite:
        raise NotReplaced(errno.EEXIST, "it was created by another process", str(out))
    try:
        (out / MARKER).touch()  # it is about to be a leftover
        if not exchange(growing, out):
            _replace_in_two_steps(growing, out)
    except OSError as error:
        _unmark(out)
        raise NotReplaced(error.errno, error.strerror, str(out)) from error
    _unmark(out)
    _remove_if_marked(_superseded(out))


def _replace_in_two_steps(growing: Path, out: Path) -> None:
    """Between the two renames `out` is missing; the next command restores the older one."""
    old = _superseded(out)
    out.rename(old)
    try:
        growing.rename(out)
    except OSError:
        old.rename(out)
        raise


def _mend(out: Path) -> None:
    """As `mend`, by the holder of the lock."""
    with contextlib.suppress(OSError):
        _restore(out)
        _unmark(out)
    _remove_if_marked(_growing(out))
    if os.path.lexists(out):  # otherwise the older one could not be put back, and there is no other
        _remove_if_marked(_superseded(out))


def _restore(out: Path) -> None:
    if _is_missing(out):
        _superseded(out).rename(out)
        _unmark(out)


def _remove_if_marked(directory: Path) -> None:
    if _is_marked(directory):
        _remove(directory)


def _remove(directory: Path) -> None:
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
            _unmark(directory)
            directory.rmdir()


def _children(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except OSError:
        return []
