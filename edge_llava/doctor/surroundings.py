"""Findings about what surrounds the engines: versions, the data directory and its disk, the terminal's encoding."""

from __future__ import annotations

import locale
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import edge_llava
from edge_llava.doctor.finding import Finding
from edge_llava.errors import EdgeLlavaError
from edge_llava.home.directories import has_home, home_directory

_LITTLE_DISK = 5_000_000_000  # a 7B bundle in Q4_K_M, in bytes


def find_about_surroundings() -> Iterator[Finding]:
    """Yields the findings of this process."""
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    yield Finding(
        "ok", "versions", f"edge-llava {edge_llava.__version__}, Python {platform.python_version()}, {system}"
    )
    yield _about_home()
    yield find_about_encoding(locale.getpreferredencoding(False), sys.stdout.encoding or "")


def find_about_encoding(preferred: str, output: str) -> Finding:
    """Whether answers in any language can be shown.

    Args:
        preferred: The locale's encoding.
        output: That of standard output.
    """
    encodings = {name.lower().replace("_", "-") for name in (preferred, output) if name}
    if all("utf-8" in name or "utf8" in name or name == "cp65001" for name in encodings):
        return Finding("ok", "locale", preferred)
    cure = "chcp 65001, or set PYTHONUTF8=1" if os.name == "nt" else "export LANG=C.UTF-8"
    return Finding("hint", "locale", f"{' and '.join(sorted(encodings))} cannot show every answer", cure)


def _about_home() -> Finding:
    try:
        home, known = home_directory(), has_home()
    except EdgeLlavaError as error:
        return Finding("problem", "home", str(error))
    if not known:
        advice = "Set EDGE_LLAVA_HOME to a directory of yours."
        return Finding("hint", "home", "this user has no home directory, so nothing is kept", advice)
    return find_about_directory(home)


def find_about_directory(home: Path) -> Finding:
    """Whether a data directory, which may not exist yet, can be written, and what is free there."""
    place = next(path for path in (home, *home.parents) if path.exists())
    free = shutil.disk_usage(place).free
    text = f"{free / 1e9:.1f} GB free for bundles and caches"
    if not place.is_dir() or not os.access(place, os.W_OK):
        advice = "Set EDGE_LLAVA_HOME to a directory of yours."
        return Finding("problem", "home", f"{home} cannot be written: nothing is kept", advice)
    if free < _LITTLE_DISK:
        return Finding("hint", "home", text, "Delete bundles (`edge-llava models`), or move EDGE_LLAVA_HOME.")
    return Finding("ok", "home", text)
