"""Which paths the files of a bundle may have where it is published and fetched, on every system."""

from __future__ import annotations

from pathlib import PurePosixPath

from edge_llava.bundle.contents import CARD_NAME, LICENSES
from edge_llava.bundle.manifest import Manifest
from edge_llava.home.atomic_directory import MARKER
from edge_llava.home.directories import MANIFEST_NAME

_RESERVED = {name.casefold() for name in (MANIFEST_NAME, MARKER, LICENSES, CARD_NAME)}
_MAX_LICENSES = 50


def find_path_faults(manifest: Manifest) -> list[str]:
    """Paths that stay inside the bundle, and yet would fall onto one another, or onto what is ours.

    macOS and Windows do not distinguish upper and lower case, and Windows ignores dots and spaces at the end.
    """
    shown = [entry.path[:200] for entry in manifest.files.values()]
    paths = [_folded(entry.path) for entry in manifest.files.values()]
    faults = [f"{text!r} cannot be a file's path" for text, path in zip(shown, paths, strict=True) if not path.parts]
    for text, path in zip(shown, paths, strict=True):
        if path.parts and path.parts[0] in _RESERVED:
            faults.append(f"{text!r} is reserved")
        if sum(path == other or path in other.parents for other in paths) > 1:
            faults.append(f"{text!r} is named twice")
    names = manifest.source.license_files
    if len(names) > _MAX_LICENSES:
        faults.append(f"it has {len(names)} licence files, at most {_MAX_LICENSES} are fetched")
    return [*faults, *(f"the licence file {name[:200]!r} is not a plain name" for name in names if not _is_plain(name))]


def _folded(path: str) -> PurePosixPath:
    return PurePosixPath(*(part.casefold().rstrip(". ") for part in PurePosixPath(path).parts))


def _is_plain(name: str) -> bool:
    return name.isprintable() and not set(name) & set("/\\:") and name.strip(". ") != "" and len(name.encode()) < 200
