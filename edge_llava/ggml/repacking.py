"""Which weights llama.cpp rearranges for the CPU when it loads a model, and whether that is worthwhile.

Source: ggml_repack_get_optimal_repack_type in ggml/src/ggml-cpu/repack.cpp, ggml_tiled_supported in
ggml/src/ggml-cpu/tiled/tiled.cpp, supports_op in ggml/src/ggml-cpu/amx/amx.cpp, get_row_size in its mmq.cpp.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping

from edge_llava.ggml.amx import can_use_amx
from edge_llava.ggml.gguf_header import GgufTensor
from edge_llava.ggml.library import bind
from edge_llava.ggml.types import GgmlType
from edge_llava.ggml.weight_buffers import find_weight_buffers

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
# What AMX multiplies faster: values of a block, and bytes that it adds to each; the rows are taken 32 at a time.
_AMX: Mapping[int, tuple[int, int]] = {
    GgmlType.Q4_0: (32, 0),
    GgmlType.Q4_1: (32, 0),
    GgmlType.Q8_0: (32, 4),
    GgmlType.Q4_K: (256, 4),
    GgmlType.Q5_K: (256, 4),
    GgmlType.IQ4_XS: (256, 2),
}
_AMX_ROWS = 32
_X86 = "avx2"
# Of these, what llama.cpp multiplies tile by tile on x86 as long as it is not rearranged.
_TILED = (GgmlType.Q4_K, GgmlType.Q2_K)


def rearranged_weights(tensors: Mapping[str, GgufTensor]) -> Mapping[str, str]:
    """The weights that this CPU multiplies from another place than the file: by name, the kind of buffer.

    With AMX that works, "AMX" holds what it multiplies faster. Otherwise it is "CPU_REPACK". The embedding is never
    among them.
    """
    present, found = find_weight_buffers(), {}
    has_unit = "AMX" in present and can_use_amx()
    for name, tensor in tensors.items():
        if len(tensor.shape) != 2 or name == "token_embd.weight":
            continue
        if has_unit and tensor.type_id in _AMX and tensor.shape[1] % _AMX_ROWS == 0:
            found[name] = "AMX"
        elif "CPU_REPACK" in present and _is_repacked(tensor):
            found[name] = "CPU_REPACK"
    return found


def repacked_bytes(tensors: Mapping[str, GgufTensor]) -> int:
    """Bytes of the rearranged weights of a language model that is on the CPU."""
    return sum(_size(tensors[name], kind) for name, kind in rearranged_weights(tensors).items())


def is_read(tensors: Mapping[str, GgufTensor]) -> bool:
    """Whether a file of which weights are rearranged is better read than mapped.

    What is mapped stays in memory beside the rearranged weights, as long as there is room. Reading takes longer: 0.7 in
    place of 0.4 s for 0.7 GB.
    """
    rearranged = sum(tensors[name].n_bytes for name in rearranged_weights(tensors))
    return 2 * rearranged > sum(tensor.n_bytes for tensor in tensors.values())


def is_repacking_worthwhile(tensors: Mapping[str, GgufTensor]) -> bool:
    """Whether rearranged weights make this CPU faster at a question about an image.

    Most of the time goes into the image's positions. AMX takes less time for
    these and for tokens. Elsewhere on x86, positions take 1.07 (AVX2) to 1.5 times (AVX-512) as long with rearranged
    K-quants, while a token of the answer takes less by 7 to 15 %.
    """
    rearranged = rearranged_weights(tensors)
    slower = sum(
        tensors[name].n_bytes
        for name, kind in rearranged.items()
        if kind == "CPU_REPACK" and tensors[name].type_id in _TILED and _has(_X86)
    )
    return 2 * slower <= sum(tensors[name].n_bytes for name in rearranged)


def _size(tensor: GgufTensor, kind: str) -> int:
    values, added = _AMX[tensor.type_id] if kind == "AMX" else (1, 0)
    return tensor.n_bytes + tensor.shape[0] * tensor.shape[1] // values * added


def _is_repacked(tensor: GgufTensor) -> bool:
    rules = _RULES.get(tensor.type_id, {})
    return any(_has(instructions) and tensor.shape[1] % rows == 0 for instructions, rows in rules.items())


@functools.cache
def _has(instructions: str) -> bool:
    """Whether this CPU, and the installed build of ggml, have these instructions."""
    return bool(bind(f"ggml_cpu_has_{instructions}", ctypes.c_int, [])())
