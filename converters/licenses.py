"""Finds the files that state a checkpoint's licence, and refuses other files under such a name."""

from __future__ import annotations

import logging
from pathlib import Path

from edge_llava.converters.hub import find_snapshot

_STEMS = ("license", "licence", "use_policy", "notice", "copying")
_MAX_BYTES = 1 << 20
_TEXT = bytes({*b"\t\n\f\r", *range(0x20, 0x100)} - {0x7F})  # in UTF-8 or Latin-1
_log = logging.getLogger(__name__)


def find_licenses(directory: Path) -> list[Path]:
    """Returns the licence files of a checkpoint, sorted; those that may not be copied are named in the log.

    A link must stay inside the checkpoint, or inside the hub's cache that the checkpoint is a snapshot of.
    """
    named = sorted(path for path in directory.iterdir() if path.name.lower().startswith(_STEMS) and path.is_file())
    faults = {path: _fault(path, directory.resolve()) for path in named}
    for path, fault in faults.items():
        if fault is not None:
            _log.warning("%s is not copied into the bundle: %s", path, fault)
    return [path for path in named if faults[path] is None]


def _fault(path: Path, directory: Path) -> str | None:
    # a snapshot in the hub's cache contains links to `../../blobs`
    allowed = (directory, directory.parents[1] / "blobs") if find_snapshot(directory) else (directory,)
    target = path.resolve()
    if not any(target.is_relative_to(root) for root in allowed):
        return "it is a link that leaves the checkpoint"
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    if len(data) > _MAX_BYTES:
        return "it is larger than 1 MB"
    return "it is not text" if data.translate(None, _TEXT) else None
