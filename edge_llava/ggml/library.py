"""Finds functions of ggml in the shared libraries that llama-cpp-python ships. No other copy of ggml is loaded."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edge_llava.errors import BackendError
from edge_llava.ggml.plugins import plugin_libraries
from edge_llava.home.files import digest_file

# libllama first: on Linux and macOS its handle reaches every library it depends on, and opening libggml-base by its
# unversioned name would load a second copy with its own tables. Windows does not chain, so the others are asked too.
_LIBRARY_NAMES = ("llama", "ggml", "ggml-base", "ggml-cpu")
_HASHED_BYTES = 16 << 20
_WITHOUT_GPU = ("ggml-base", "ggml-cpu", "ggml-blas")  # what else is called ggml-... is the backend of another device


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
    """sha256 (hex) over llama-cpp-python's libraries and plug-ins: another build, another digest. None is loaded.

    Of libraries beyond 16 MB (CUDA kernels), size and time of change stand for the contents.
    """
    digest = hashlib.sha256()
    for path in (*_libraries(), *plugin_libraries()):
        status = path.stat()
        facts = f"{status.st_mtime_ns}" if status.st_size > _HASHED_BYTES else digest_file(path)
        digest.update(f"{path.name} {status.st_size} {facts}\n".encode())
    return digest.hexdigest()


def may_see_gpus() -> bool:
    """Whether this build may have devices apart from the CPU. Its libraries' names say so, and none is loaded."""
    names = {path.name.removeprefix("lib").partition(".")[0] for path in (*_libraries(), *plugin_libraries())}
    backends = {name for name in names if name.startswith("ggml-")}
    # of a build in one piece, names say nothing
    return bool(names) and not (backends and all(name.startswith(_WITHOUT_GPU) for name in backends))


def _libraries() -> list[Path]:
    """The shared libraries, sorted; empty where llama-cpp-python is not installed."""
    spec = find_spec("llama_cpp")
    directory = None if spec is None or spec.origin is None else _directory(spec.origin)
    if directory is None or not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if _is_library(path))


def _directory(package_file: str) -> Path:
    override = os.environ.get("LLAMA_CPP_LIB_PATH")
    return Path(override) if override else Path(package_file).parent / "lib"


def _is_library(path: Path) -> bool:
    return path.is_file() and path.suffix in (".so", ".dylib", ".dll")
