"""Where a bundle grows before it takes its place; see `edge_llava.home.atomic_directory`."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_llava.bundle.contents import find_foreign
from edge_llava.errors import ConversionError, list_faults
from edge_llava.home.atomic_directory import InTheWay, NotReplaced, atomic_directory, mend
from edge_llava.home.lock import HeldElsewhere

_FULL_BYTES = 1 << 20  # a disk with less free than this is called full


def check_target(out: Path, *, overwrite: bool) -> None:
    """Refuses a target that is in the way, after mending what a killed conversion left.

    Raises:
        ConversionError: If `out` contains something that is not a bundle, is a bundle that must not be replaced or
            holds files that are not its own, cannot be a name, or another conversion is writing it.
    """
    try:
        mend(out)
        if not out.exists() or (out.is_dir() and not any(out.iterdir())):
            return
    except HeldElsewhere as error:
        raise _is_busy(out) from error
    except OSError as error:
        raise ConversionError(
            f"{out} cannot be written: {error.strerror}. Choose another directory with -o."
        ) from error
    foreign = find_foreign(out)
    if foreign is None:
        raise ConversionError(
            f"{out} exists and is not a bundle; it is left alone. Choose another directory with -o, or delete it."
        )
    if not overwrite:
        raise ConversionError(f"{out} exists already. Replace it with --force, or choose another directory with -o.")
    if foreign:
        raise ConversionError(
            list_faults(
                f"{out} holds files that do not belong to its bundle, and --force would delete them:",
                foreign,
                "Move them, or choose another directory with -o.",
            )
        )


@contextmanager
def staging_directory(out: Path, *, overwrite: bool) -> Iterator[Path]:
    """A directory, empty at first, that takes the place of `out` when the block ends well, and disappears otherwise.

    Raises:
        ConversionError: If another conversion is writing `out`, something else has the name of the directory that
            grows, or the disk is full or cannot be written. An older bundle is still there.
    """
    try:
        with atomic_directory(out, overwrite=overwrite) as directory:
            try:
                yield directory
            except OSError as error:  # before the directory disappears, after which no disk is full
                raise _unwritable(out, error) from error
    except HeldElsewhere as error:
        raise _is_busy(out) from error
    except InTheWay as error:
        raise ConversionError(f"{error.filename}: {error.strerror}. Move it, or choose another -o.") from error
    except NotReplaced as error:
        raise ConversionError(
            f"{out} cannot be replaced: {error.strerror}. The older bundle is still there."
        ) from error
    except OSError as error:
        raise _unwritable(out, error) from error


def _unwritable(out: Path, error: OSError) -> ConversionError:
    # numpy reports a short write without an errno
    if error.errno == errno.ENOSPC or (error.errno is None and shutil.disk_usage(out.parent).free < _FULL_BYTES):
        return ConversionError(f"the disk of {out.parent} is full. Nothing was kept; free some space.")
    return ConversionError(f"{out} cannot be written: {error.strerror or error}. Choose another directory with -o.")


def _is_busy(out: Path) -> ConversionError:
    return ConversionError(f"another conversion is writing {out}. Wait for it, or choose another -o.")
