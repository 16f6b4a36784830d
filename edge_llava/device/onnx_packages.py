"""The installed ONNX Runtime, and the packages that brought it. Each of them overwrites the files of the others."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from edge_llava.home.installation import install_command

# By the extra of ours that brings each of them; the others are builds that we do not name.
_EXTRAS = {
    "onnxruntime": "cpu",
    "onnxruntime-gpu": "cuda",
    "onnxruntime-directml": "directml",
}
_OTHERS = (
    "onnxruntime-openvino",
    "onnxruntime-migraphx",
    "onnxruntime-rocm",
    "onnxruntime-cann",
    "onnxruntime-training",
)
_DIST_INFO = re.compile(r"(onnxruntime\w*)-([^-]+)\.dist-info$", re.IGNORECASE)
_VERSION = re.compile(r"^__version__ = \"([^\"]+)\"", re.MULTILINE)
_FIRST_OF_CUDA_13 = (1, 27)  # onnxruntime-gpu on PyPI; earlier ones are built for CUDA 12


def onnx_packages(paths: Sequence[str | Path] | None = None) -> dict[str, str]:
    """The installed packages that contain the module onnxruntime, with their versions.

    The names of the directories that pip writes tell: importlib.metadata would take 50 ms, before every first image.

    Args:
        paths: Directories to look in; None: `sys.path`.
    """
    found: dict[str, str] = {}
    for directory in sys.path if paths is None else paths:
        try:
            names = os.listdir(directory or ".")
        except OSError:  # a zip file, or a directory that is not there
            continue
        for match in filter(None, map(_DIST_INFO.match, names)):
            name = match[1].replace("_", "-").lower()
            if name in _EXTRAS or name in _OTHERS:
                found.setdefault(name, match[2])
    return dict(sorted(found.items()))


def onnxruntime_version() -> str:
    """The version of the module that is imported, whatever packages say; "" if there is none. It is not imported."""
    spec = find_spec("onnxruntime")
    if spec is None or spec.origin is None:
        return ""
    try:
        found = _VERSION.search(Path(spec.origin).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # a frozen app has no sources
        found = None
    return found[1] if found else str(getattr(import_module("onnxruntime"), "__version__", ""))


def expected_provider(wanted: str) -> str:
    """Where the tower will run, before it was opened: the provider that is wanted, or what "auto" will try."""
    if wanted != "auto":
        return wanted
    return "cuda, or else cpu" if "onnxruntime-gpu" in onnx_packages() else "cpu"


def repair(packages: dict[str, str], extra: str = "") -> str:
    """The pip commands after which one of these packages, or the one of our extra, is installed, alone and whole."""
    chosen = next((name for name in packages if name != "onnxruntime"), "onnxruntime")
    if chosen == "onnxruntime-gpu" and _minor(packages[chosen]) < _FIRST_OF_CUDA_13:
        extra = extra or "cuda12"
    extra = extra or _EXTRAS.get(chosen, "")
    removal = f"`pip uninstall -y {' '.join(packages)}`, then " if packages else ""
    command = install_command(extra) if extra else f"pip install {chosen}"
    return f"{removal}`{command}`"


def _minor(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])
