"""Where a bundle grows: `<out>.partial`, which becomes `<out>` whole or goes away."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_llava.errors import ConversionError
from edge_llava.home import MANIFEST_NAME

_MARKER = ".edge-llava-converting"  # holds the process id: what lies here is ours, and whether somebody works on it
_FULL_BYTES = 1 << 20  # a disk with less free than this is called full


def check_target(out: Path, *, overwrite: bool) -> None:
    """Refuses a target that is in the way.

    Raises:
        ConversionError: If `out` holds something that is no bundle, or a bundle that must not be replaced.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / MANIFEST_NAME).is_file():
        raise ConversionError(f"{out} exists and is no bundle; it is left alone. Choose another directory with -o.")
    if not overwrite:
        raise ConversionError(f"{out} exists already. Replace it with --force, or choose another directory with -o.")


@contextmanager
def staging_directory(out: Path) -> Iterator[Path]:
    """The directory `<out>.partial`, empty at first, gone afterwards whatever happens.

    Raises:
        ConversionError: If somebody else's directory is in the way, another conversion is at work there, the disk is
            full or cannot be written.
    """
    directory = out.with_name(f"{out.name}.partial")
    is_ours = False
    try:
        _clear_leftovers(directory)
        directory.mkdir(parents=True)
        is_ours = True
        (directory / _MARKER).write_text(str(os.getpid()), encoding="utf-8")
        yield directory
    except OSError as error:
        # numpy reports a short write without an errno
        if error.errno == errno.ENOSPC or (error.errno is None and shutil.disk_usage(out.parent).free < _FULL_BYTES):
            raise ConversionError(f"the disk of {out.parent} is full. Nothing was kept; free some space.") from error
        reason = error.strerror or error
        raise ConversionError(f"{directory} cannot be written: {reason}. Choose another directory with -o.") from error
    finally:
        if is_ours:
            shutil.rmtree(directory, ignore_errors=True)


def publish(directory: Path, out: Path) -> None:
    """Renames the finished directory to its place; an older bundle there is moved aside first and deleted last.

    Raises:
        ConversionError: If the new one cannot take its place; the older one is put back.
    """
    (directory / _MARKER).unlink()
    if not out.exists():
        directory.rename(out)
        return
    old = out.with_name(f"{out.name}.{uuid.uuid4().hex[:8]}.partial")
    out.rename(old)
    try:
        directory.rename(out)
    except OSError as error:
        old.rename(out)
        raise ConversionError(
            f"{out} cannot be replaced: {error.strerror}. The older bundle is still there."
        ) from error
    shutil.rmtree(old, ignore_errors=True)


def _clear_leftovers(directory: Path) -> None:
    """Removes what a killed conversion left; refuses anything else."""
    if not directory.exists():
        return
    if not directory.is_dir() or (any(directory.iterdir()) and not (directory / _MARKER).is_file()):
        raise ConversionError(f"{directory} is in the way; no conversion left it. Move it, or choose another -o.")
    if _is_at_work(directory / _MARKER):
        raise ConversionError(f"another conversion is writing {directory}. Wait for it, or choose another -o.")
    shutil.rmtree(directory)


def _is_at_work(marker: Path) -> bool:
    if sys.platform == "win32":
        return False  # asking with signal 0 would end the process there
    try:
        process = int(marker.read_text(encoding="utf-8"))
        os.kill(process, 0)
    except PermissionError:
        return True  # it lives, and is somebody else's
    except (OSError, ValueError, OverflowError):
        return False
    return process != os.getpid()
