"""What belongs to a bundle's directory, so that replacing a bundle deletes no other file.

the files of the manifest, the manifest itself
licenses/            licence files of the checkpoint
README.md            the card of `edge-llava push`, which bears CARD_MARK
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from edge_llava.home.atomic_directory import MARKER
from edge_llava.home.directories import MANIFEST_NAME
from edge_llava.home.regular_file import read_text

LICENSES = "licenses"
CARD_NAME = "README.md"
CARD_MARK = "<!-- Written by edge-llava push, and replaced by the next one. To keep it, delete this line. -->"


def find_foreign(directory: Path) -> list[str] | None:
    """What a directory holds besides a bundle. The bundle may be damaged, or of another version.

    Args:
        directory: Any.

    Returns:
        Relative paths with forward slashes, sorted; None if there is no bundle manifest.
    """
    paths = _read_paths(directory)
    if paths is None:
        return None
    foreign = []
    for folder, folders, files in os.walk(directory):
        below = Path(folder).relative_to(directory)
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        foreign += [path for name in (*files, *links) if (path := (below / name).as_posix()) not in paths]
    return sorted(path for path in foreign if not _is_ours(directory, path))


def is_our_card(text: str) -> bool:
    """Whether a README.md was written by `push` and was not made someone's own since."""
    return CARD_MARK in text


def _is_ours(directory: Path, path: str) -> bool:
    if path in (MANIFEST_NAME, MARKER) or path.startswith(f"{LICENSES}/"):
        return True
    if path != CARD_NAME:
        return False
    try:
        return is_our_card(read_text(directory / CARD_NAME))
    except (OSError, UnicodeDecodeError):
        return False


def _read_paths(directory: Path) -> set[str] | None:
    """The paths of the files that the manifest names."""
    try:
        data = json.loads(read_text(directory / MANIFEST_NAME))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(data, dict) or not isinstance(data.get("format_version"), int):
        return None
    files = data.get("files")
    if not isinstance(files, dict):
        return None
    return {str(entry.get("path")) for entry in files.values() if isinstance(entry, dict)}
