"""Which weights llama.cpp rearranges for the CPU when it loads a model: they take memory beside their file.

Source: ggml_repack_get_optimal_repack_type in ggml/src/ggml-cpu/repack.cpp.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping

from edge_llava.ggml.gguf_header import GgufTensor
from edge_llava.ggml.library import bind
from edge_llava.ggml.types import GgmlType

# By type, the instructions that it needs, any of them, and what the number of rows must be a multiple of.
_RULES: Mapping[int, Mapping[str, int]] = {
    GgmlType.Q4_0: {"avx2": 8, "dotprod": 4},
    GgmlType.Q4_K: {"avx2": 8, "dotprod": 8},
    GgmlType.Q2_K: {"avx512": 8},
    GgmlType.Q5_K: {"dotprod": 8},
    GgmlType.Q6_K: {"dotprod": 8},
    GgmlType.Q8_0: {"dotprod": 4},
    GgmlType.IQ4_NL: {"avx2": 8, "dotprod": 4},
}


def repacked_bytes(tensors: Mapping[str, GgufTensor]) -> int:
    """Bytes of the rearranged weights of a language model that is on the CPU; the embedding is never among them."""
    return sum(
        tensor.n_bytes
        for name, tensor in tensors.items()
        if len(tensor.shape) == 2 and name != "token_embd.weight" and _is_repacked(tensor)
    )


def _is_repacked(tensor: GgufTensor) -> bool:
    rules = _RULES.get(tensor.type_id, {})
    return any(_has(instructions) and tensor.shape[1] % rows == 0 for instructions, rows in rules.items())


@functools.cache
def _has(instructions: str) -> bool:
    """Whether this CPU, and the installed build of ggml, have these instructions."""
    return bool(bind(f"ggml_cpu_has_{instructions}", ctypes.c_int, [])())
