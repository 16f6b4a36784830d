"""Quantizes as llama.cpp does, tensor by tensor: its choice of types, and ggml's encoders on float32 rows.

`llama_model_quantize` wants a whole F16 file first; for a 7B model that is 13 GB more disk and one more pass. Here each
tensor goes from the checkpoint through ggml's own encoder into the final file. A test proves that the result equals
`llama_model_quantize`'s, byte for byte.
Source: llama-quant.cpp of the llama.cpp that llama-cpp-python 0.3.36 ships.
"""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from gguf import GGML_QUANT_SIZES, LlamaFileType
from gguf import GGMLQuantizationType as GgmlType
from numpy.typing import NDArray

from edge_llava.errors import ConversionError
from edge_llava.ggml.library import bind

_F16_MAX = 65504.0

FILE_TYPES = {
    "F32": LlamaFileType.ALL_F32,
    "F16": LlamaFileType.MOSTLY_F16,
    "BF16": LlamaFileType.MOSTLY_BF16,
    "Q8_0": LlamaFileType.MOSTLY_Q8_0,
    "Q6_K": LlamaFileType.MOSTLY_Q6_K,
    "Q5_K_M": LlamaFileType.MOSTLY_Q5_K_M,
    "Q5_K_S": LlamaFileType.MOSTLY_Q5_K_S,
    "Q4_K_M": LlamaFileType.MOSTLY_Q4_K_M,
    "Q4_K_S": LlamaFileType.MOSTLY_Q4_K_S,
    "Q4_0": LlamaFileType.MOSTLY_Q4_0,
    "Q3_K_L": LlamaFileType.MOSTLY_Q3_K_L,
    "Q3_K_M": LlamaFileType.MOSTLY_Q3_K_M,
    "Q3_K_S": LlamaFileType.MOSTLY_Q3_K_S,
    "Q2_K": LlamaFileType.MOSTLY_Q2_K,
}
_UNQUANTIZED = (GgmlType.F32, GgmlType.F16, GgmlType.BF16)
_FALLBACKS = {
    GgmlType.Q2_K: GgmlType.Q4_0,
    GgmlType.Q3_K: GgmlType.Q4_0,
    GgmlType.Q4_K: GgmlType.Q5_0,
    GgmlType.Q5_K: GgmlType.Q5_1,
    GgmlType.Q6_K: GgmlType.Q8_0,
}


@dataclass(frozen=True)
class QuantRules:
    """What the choice of a tensor's type depends on, apart from the tensor itself.

    Attributes:
        quant: One of FILE_TYPES.
        n_layer: Blocks of the language model.
        n_gqa: Query heads per key/value head.
        tied: Whether the embedding is also the head.
        architecture: llama.cpp's name of it.
    """

    quant: str
    n_layer: int
    n_gqa: int
    tied: bool
    architecture: str = "llama"

    @property
    def default(self) -> GgmlType:
        """Returns the type of matrices to which no rule applies."""
        return GgmlType[self.quant.removesuffix("_M").removesuffix("_S").removesuffix("_L")]

    @property
    def is_70b(self) -> bool:
        """Whether llama.cpp takes it for a model of 70 billion weights, which it tells by its blocks."""
        return self.n_layer == 80 and (self.n_gqa > 1 or self.architecture == "qwen2")


def choose_type(rules: QuantRules, gguf_name: str, shape: tuple[int, ...]) -> GgmlType:
    """Returns the ggml type that llama.cpp would choose for a tensor.

    Args:
        rules: The file's quantization.
        gguf_name: For example "blk.3.ffn_down.weight".
        shape: As in torch; the last axis is the row.
    """
    if len(shape) < 2:
        return GgmlType.F32
    if rules.default in _UNQUANTIZED:
        return rules.default
    row = shape[-1]
    if gguf_name == "output.weight" or (rules.tied and gguf_name == "token_embd.weight"):
        block = GGML_QUANT_SIZES[rules.default][0]
        wanted = GgmlType.Q8_0 if row % block or rules.default is GgmlType.Q8_0 else GgmlType.Q6_K
    elif gguf_name.startswith("blk."):
        _, layer, part, _ = gguf_name.split(".")
        wanted = _block_type(rules, int(layer), part)
    else:
        wanted = rules.default
    return fit_type(wanted, row)


def fit_type(wanted: GgmlType, row: int) -> GgmlType:
    """Returns the type if a row divides into its blocks, else llama.cpp's replacement, at last F16."""
    if row % GGML_QUANT_SIZES[wanted][0] == 0:
        return wanted
    fallback = _FALLBACKS.get(wanted, wanted)
    return fallback if row % GGML_QUANT_SIZES[fallback][0] == 0 else GgmlType.F16


def projector_type(quant: str) -> GgmlType:
    """Returns the type of the projector's matrices for a quantization: the same, but at least 6 bits."""
    default = QuantRules(quant, 1, 1, False).default
    return default if default in (*_UNQUANTIZED, GgmlType.Q8_0) else GgmlType.Q6_K


def _block_type(rules: QuantRules, layer: int, part: str) -> GgmlType:
    quant, n, default = rules.quant, rules.n_layer, rules.default
    more_bits = layer < n // 8 or layer >= 7 * n // 8 or (layer - n // 8) % 3 == 2
    q3, q4, q5, q6 = GgmlType.Q3_K, GgmlType.Q4_K, GgmlType.Q5_K, GgmlType.Q6_K
    if part == "attn_v":
        by_quant = {
            "Q2_K": q4 if rules.n_gqa >= 4 else q3,
            "Q3_K_M": q5 if layer < 2 else q4,
            "Q3_K_L": q5,
            "Q4_K_M": q6 if more_bits else default,
            "Q5_K_M": q6 if more_bits else default,
            "Q4_K_S": q5 if layer < 4 else default,
        }
        wanted = by_quant.get(quant, default)
        return q5 if rules.is_70b and wanted in (q3, q4) else wanted
    elif part == "ffn_down":
        by_quant = {
            "Q2_K": q3,
            "Q3_K_M": q5 if layer < n // 16 else q4,
            "Q3_K_L": q5,
            "Q4_K_M": q6 if more_bits else default,
            "Q5_K_M": q6 if more_bits else default,
            "Q4_K_S": q5 if layer < n // 8 else default,
        }
    elif part == "attn_output":
        by_quant = {"Q2_K": q3, "Q3_K_M": q4, "Q3_K_L": q5}
    else:
        by_quant = {}
    return by_quant.get(quant, default)


def encoded_bytes(type_: GgmlType, shape: tuple[int, ...]) -> int:
    """Returns the size of an encoded tensor."""
    block, block_bytes = GGML_QUANT_SIZES[type_]
    return int(np.prod(shape)) // block * block_bytes


class Encoder:
    """ggml's encoders on several threads (ctypes releases Python's lock while they run)."""

    def __init__(self, n_threads: int) -> None:
        self._n_threads = n_threads
        self._pool = ThreadPoolExecutor(n_threads, "edge-llava-quantize")

    def encode(self, name: str, values: NDArray[np.float32], type_: GgmlType) -> NDArray[np.uint8]:
        """Encodes a tensor.

        Args:
            name: For messages.
            values: float32, C-contiguous; the last axis is the row.
            type_: A type that fits the row.

        Returns:
            uint8 (n_bytes,).

        Raises:
            ConversionError: If a value is not finite, or does not fit in F16.
        """
        rows = values.reshape(-1, values.shape[-1])
        largest = max(-float(rows.min()), float(rows.max()))
        if not np.isfinite(largest):
            raise ConversionError(f"{name} contains infinite or undefined numbers: the checkpoint is damaged.")
        if type_ is GgmlType.F16 and largest > _F16_MAX:
            raise ConversionError(f"{name} contains {largest:g}, beyond F16's {_F16_MAX:g}. Use --quant BF16 or F32.")
        if type_ is GgmlType.F32:
            return rows.reshape(-1).view(np.uint8)
        return self._quantize(rows, type_)

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown()

    def _quantize(self, rows: NDArray[np.float32], type_: GgmlType) -> NDArray[np.uint8]:
        quantize = bind(
            "ggml_quantize_chunk",
            ctypes.c_size_t,
            [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p],
        )
        bind("ggml_quantize_init", None, [ctypes.c_int])(int(type_))
        n_rows, width = rows.shape
        encoded = np.empty(encoded_bytes(type_, rows.shape), np.uint8)
        per_thread = -(-n_rows // (4 * self._n_threads))

        def work(first: int) -> int:
            n = min(per_thread, n_rows - first)
            written: int = quantize(int(type_), rows.ctypes.data, encoded.ctypes.data, first * width, n, width, None)
            return written

        written = sum(self._pool.map(work, range(0, n_rows, per_thread)))
        if written != encoded.nbytes:
            raise ConversionError(f"ggml wrote {written} bytes where {encoded.nbytes} were expected ({type_.name}).")
        return encoded
