"""Finds functions of ggml in the shared libraries that llama-cpp-python ships. No other copy of ggml is loaded."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_llava.errors import BackendError
from edge_llava.home.files import digest_file

# libllama first: on Linux and macOS its handle reaches every library it depends on, and opening libggml-base by its
# unversioned name would load a second copy with its own tables. Windows does not chain, so the others are asked too.
_LIBRARY_NAMES = ("llama", "ggml", "ggml-base", "ggml-cpu")
_HASHED_BYTES = 16 << 20


def bind(name: str, result: Any, arguments: Sequence[Any]) -> Any:
    """Returns the C function `name` with its ctypes signature set.

    Args:
        name: Symbol, for example "ggml_mul_mat".
        result: ctypes type of the result, or None for void.
        arguments: ctypes types of the arguments.

    Raises:
        BackendError: If no library of the installed llama-cpp-python has it.
    """
    for library_name in _LIBRARY_NAMES:
        library = _open_library(library_name)
        if library is not None and hasattr(library, name):
            function = getattr(library, name)
            function.restype, function.argtypes = result, list(arguments)
            return function
    raise BackendError(
        f"the installed llama-cpp-python has no function {name}. Install the version this release names."
    )


@functools.cache
def _open_library(name: str) -> ctypes.CDLL | None:
    import llama_cpp  # sets up the DLL directories on Windows

    directory = _directory(llama_cpp.__file__)
    patterns = {"win32": ("{}.dll", "lib{}.dll"), "darwin": ("lib{}.dylib", "lib{}.so")}.get(
        sys.platform, ("lib{}.so",)
    )
    for pattern in patterns:
        path = directory / pattern.format(name)
        if path.exists():
            return ctypes.CDLL(str(path))
    return None


@functools.cache
def library_digest() -> str:
    """sha256 (hex) over llama-cpp-python's version and its shared libraries: another build, another digest.

    Of libraries beyond 16 MB (CUDA kernels), size and time of change stand for the contents.
    """
    import llama_cpp

    digest = hashlib.sha256(llama_cpp.__version__.encode())
    for path in sorted(path for path in _directory(llama_cpp.__file__).iterdir() if _is_library(path)):
        status = path.stat()
        facts = f"{status.st_mtime_ns}" if status.st_size > _HASHED_BYTES else digest_file(path)
        digest.update(f"{path.name} {status.st_size} {facts}\n".encode())
    return digest.hexdigest()


def _directory(package_file: str) -> Path:
    override = os.environ.get("LLAMA_CPP_LIB_PATH")
    return Path(override) if override else Path(package_file).parent / "lib"


def _is_library(path: Path) -> bool:
    return path.is_file() and path.suffix in (".so", ".dylib", ".dll")
