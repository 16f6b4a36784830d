"""Which of llama.cpp's buffers each weight is loaded into; it takes them by patterns of names.

Source: llama_model_params.tensor_buft_overrides, ggml_backend_dev_get_extra_bufts_t in ggml-backend.h.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import re
from collections.abc import Mapping
from typing import Any

from edge_llava.ggml.library import bind

_P, _TEXT = ctypes.c_void_p, ctypes.c_char_p
_CPU = 0  # ggml_backend_dev_type
_OF_A_BLOCK = re.compile(r"blk\.(\d+)\.(.+)")


class _Override(ctypes.Structure):
    _fields_ = (("pattern", _TEXT), ("buffer_type", _P))


@functools.cache
def find_weight_buffers() -> Mapping[str, int]:
    """The kinds of buffers in which the CPU holds rearranged weights ("AMX", "CPU_REPACK"): handles by name.

    Raises:
        BackendError: If the library lacks a function.
    """
    device = bind("ggml_backend_dev_by_type", _P, [ctypes.c_int])(_CPU)
    if not device:  # of a build whose backends are files that were not loaded
        return {}
    registry = bind("ggml_backend_dev_backend_reg", _P, [_P])(device)
    find = bind("ggml_backend_reg_get_proc_address", _P, [_P, _TEXT])
    address = find(registry, b"ggml_backend_dev_get_extra_bufts")
    if not address:
        return {}
    kinds = ctypes.CFUNCTYPE(ctypes.POINTER(_P), _P)(address)(device)  # ends with NULL
    name_of = bind("ggml_backend_buft_name", _TEXT, [_P])
    return {name_of(kind).decode(): kind for kind in itertools.takewhile(bool, (kinds[n] for n in itertools.count()))}


@functools.cache
def buffer_overrides(buffers: tuple[tuple[str, str], ...]) -> Any:
    """The C array that llama.cpp's parameters take. It is kept.

    Args:
        buffers: Pairs of a tensor's name and the kind of its buffer. All others are left to llama.cpp.
    """
    by_kind: dict[str, list[str]] = {}
    for name, kind in buffers:
        by_kind.setdefault(kind, []).append(name)
    handles = find_weight_buffers()
    rows = [_Override(_pattern(names).encode(), handles[kind]) for kind, names in by_kind.items()]
    return (_Override * (len(rows) + 1))(*rows)


def _pattern(names: list[str]) -> str:
    """A regular expression that finds these names and no others; short, as llama.cpp compiles it for every tensor."""
    kinds: dict[str, list[str]] = {}
    parts = []
    for name in names:
        if found := _OF_A_BLOCK.fullmatch(name):
            kinds.setdefault(found[2], []).append(found[1])
        else:
            parts.append(re.escape(name))
    by_blocks: dict[str, list[str]] = {}
    for kind, blocks in kinds.items():
        by_blocks.setdefault("|".join(blocks), []).append(re.escape(kind))
    parts += [rf"blk\.({blocks})\.({'|'.join(kinds)})" for blocks, kinds in by_blocks.items()]
    return f"^({'|'.join(parts)})$"
