"""Which weights llama.cpp rearranges for the CPU when it loads a model, and whether that is worthwhile.

Source: ggml_repack_get_optimal_repack_type in ggml/src/ggml-cpu/repack.cpp, ggml_tiled_supported in
ggml/src/ggml-cpu/tiled/tiled.cpp.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator, Mapping

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
_X86 = "avx2"
# Of these, what llama.cpp multiplies tile by tile on x86 as long as it is not rearranged.
_TILED = (GgmlType.Q4_K, GgmlType.Q2_K)


def repacked_bytes(tensors: Mapping[str, GgufTensor]) -> int:
    """Bytes of the rearranged weights of a language model that is on the CPU; the embedding is never among them."""
    return sum(tensor.n_bytes for tensor in _repacked(tensors))


def is_repacking_worthwhile(tensors: Mapping[str, GgufTensor]) -> bool:
    """Whether rearranged weights make this CPU faster at a question about an image.

    They take their size in memory once more. Most of the time goes into the image's positions, and on x86 these take
    1.07 (AVX2) to 1.5 times (AVX-512) as long with rearranged K-quants, while a token of the answer takes less by 7 to
    15 %.
    """
    tiled = sum(tensor.n_bytes for tensor in _repacked(tensors) if tensor.type_id in _TILED) if _has(_X86) else 0
    return 2 * tiled <= repacked_bytes(tensors)


def _repacked(tensors: Mapping[str, GgufTensor]) -> Iterator[GgufTensor]:
    for name, tensor in tensors.items():
        if len(tensor.shape) == 2 and name != "token_embd.weight" and _is_repacked(tensor):
            yield tensor


def _is_repacked(tensor: GgufTensor) -> bool:
    rules = _RULES.get(tensor.type_id, {})
    return any(_has(instructions) and tensor.shape[1] % rows == 0 for instructions, rows in rules.items())


@functools.cache
def _has(instructions: str) -> bool:
    """Whether this CPU, and the installed build of ggml, have these instructions."""
    return bool(bind(f"ggml_cpu_has_{instructions}", ctypes.c_int, [])())
