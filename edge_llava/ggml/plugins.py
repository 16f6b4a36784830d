"""Backends of llama.cpp that the installed build does not contain, as shared libraries that are loaded into it.

A package `edge_llava_vulkan` or `edge_llava_rpc` holds one, built from the same llama.cpp; EDGE_LLAVA_BACKENDS names
further directories. Source: ggml_backend_load in ggml-backend.h.
"""

from __future__ import annotations

import ctypes
import os
from importlib.util import find_spec
from pathlib import Path

from edge_llava.errors import BackendError

_PACKAGES = ("edge_llava_vulkan", "edge_llava_rpc")
_PATTERNS = ("libggml-*.so", "libggml-*.dylib", "ggml-*.dll")


def plugin_libraries() -> list[Path]:
    """The libraries of installed plug-ins; none is loaded."""
    named = os.environ.get("EDGE_LLAVA_BACKENDS", "")
    directories = [Path(part) for part in named.split(os.pathsep) if part]
    for package in _PACKAGES:
        spec = find_spec(package)
        directories += [Path(place) for place in (spec.submodule_search_locations or ())] if spec is not None else []
    return sorted(path for place in directories for pattern in _PATTERNS for path in place.glob(pattern))


def load_plugins() -> None:
    """Loads them into the installed llama.cpp, once.

    Raises:
        BackendError: If one was built for another llama.cpp, or a library that it needs is missing.
    """
    from edge_llava.ggml.library import bind

    libraries = [path for path in plugin_libraries() if path not in _loaded]
    if not libraries:
        return
    load = bind("ggml_backend_load", ctypes.c_void_p, [ctypes.c_char_p])
    set_log = bind("ggml_log_set", None, [ctypes.c_void_p, ctypes.c_void_p])
    callback, data = ctypes.c_void_p(), ctypes.c_void_p()
    bind("ggml_log_get", None, [ctypes.c_void_p] * 2)(ctypes.byref(callback), ctypes.byref(data))
    _heard.clear()
    set_log(_hear, None)
    try:
        for path in libraries:
            if not load(os.fsencode(path)):
                reason = (_heard[-1] if _heard else "it gives no reason").rstrip(".")
                advice = "Install the one for this llama-cpp-python, or remove it."
                raise BackendError(f"llama.cpp cannot load {path}: {reason}. {advice}")
            _loaded.add(path)
    finally:
        set_log(callback, data)


def _note(level: int, text: bytes, _: object) -> None:
    if message := text.decode("utf-8", "replace").strip():
        _heard.append(message)


_heard: list[str] = []  # what ggml says while it loads
_loaded: set[Path] = set()
_hear = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(_note)
