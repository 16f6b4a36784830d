"""Where a bundle grows: `<out>.partial`, which becomes `<out>` whole or goes away.

Whenever the process is killed, `<out>` is the older bundle or the new one, or `edge_llava.home.leftovers` puts the
older one back; what lies beside it bears a marker, by which the next conversion knows that it may be removed.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_llava.converters.exchange import exchange
from edge_llava.errors import ConversionError
from edge_llava.home.directories import MANIFEST_NAME
from edge_llava.home.leftovers import growing, is_at_work, is_marked, mark, mend, remove_marked, superseded, unmark

_FULL_BYTES = 1 << 20  # a disk with less free than this is called full


def check_target(out: Path, *, overwrite: bool) -> None:
    """Refuses a target that is in the way, after mending what a killed conversion left.

    Raises:
        ConversionError: If `out` holds something that is not a bundle, a bundle that must not be replaced, or cannot
            be a name.
    """
    mend(out)
    try:
        if not out.exists() or (out.is_dir() and not any(out.iterdir())):
            return
    except OSError as error:
        raise ConversionError(
            f"{out} cannot be written: {error.strerror}. Choose another directory with -o."
        ) from error
    if not os.path.isfile(out / MANIFEST_NAME):
        raise ConversionError(f"{out} exists and is no bundle; it is left alone. Choose another directory with -o.")
    if not overwrite:
        raise ConversionError(f"{out} exists already. Replace it with --force, or choose another directory with -o.")


@contextmanager
def staging_directory(out: Path) -> Iterator[Path]:
    """The directory `<out>.partial`, empty at first but for a marker, gone afterwards whatever happens.

    Raises:
        ConversionError: If somebody else's directory is in the way, another conversion is at work there, the disk is
            full or cannot be written.
    """
    directory = growing(out)
    is_ours = False
    try:
        _clear_leftovers(directory)
        directory.mkdir(parents=True)
        is_ours = True
        mark(directory)
        yield directory
    except OSError as error:
        # numpy reports a short write without an errno
        if error.errno == errno.ENOSPC or (error.errno is None and shutil.disk_usage(out.parent).free < _FULL_BYTES):
            raise ConversionError(f"the disk of {out.parent} is full. Nothing was kept; free some space.") from error
        reason = error.strerror or error
        raise ConversionError(f"{directory} cannot be written: {reason}. Choose another directory with -o.") from error
    finally:
        if is_ours:
            remove_marked(directory)


def publish(directory: Path, out: Path) -> None:
    """Gives the finished directory its place; an older bundle there is deleted last.

    Raises:
        ConversionError: If the new one cannot take its place; the older one is still there.
    """
    if os.path.isdir(out) and not any(out.iterdir()):
        out.rmdir()  # Windows would not rename onto it
    if not out.exists():
        directory.rename(out)
        unmark(out)
        return
    try:
        mark(out)  # it is about to be a leftover
        if exchange(directory, out):
            old = directory
        else:
            old = superseded(out)
            _replace_in_two_steps(directory, out, old)
    except OSError as error:
        unmark(out)
        raise ConversionError(
            f"{out} cannot be replaced: {error.strerror}. The older bundle is still there."
        ) from error
    unmark(out)
    remove_marked(old)


def _replace_in_two_steps(directory: Path, out: Path, old: Path) -> None:
    """Between the two renames the bundle is missing; the next command restores the older one."""
    out.rename(old)
    try:
        directory.rename(out)
    except OSError:
        old.rename(out)
        raise


def _clear_leftovers(directory: Path) -> None:
    """Removes what a killed conversion left; refuses anything else."""
    if not directory.exists():
        return
    if not directory.is_dir() or (any(directory.iterdir()) and not is_marked(directory)):
        raise ConversionError(f"{directory} is in the way; no conversion left it. Move it, or choose another -o.")
    if is_at_work(directory):
        raise ConversionError(f"another conversion is writing {directory}. Wait for it, or choose another -o.")
    remove_marked(directory)
    if directory.exists():
        raise ConversionError(f"{directory} cannot be removed. Move it, or choose another -o.")
