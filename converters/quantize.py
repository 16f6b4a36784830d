"""Quantizes as llama.cpp does, tensor by tensor: ggml's encoders on float32 rows.

`llama_model_quantize` wants a whole F16 file first; for a 7B model that is 13 GB more disk and one more pass. Here each
tensor goes from the checkpoint through ggml's own encoder into the final file. A test proves that the result equals
`llama_model_quantize`'s, byte for byte.
Source: llama-quant.cpp of the llama.cpp that llama-cpp-python 0.3.36 ships.
"""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from gguf import GGMLQuantizationType as GgmlType
from numpy.typing import NDArray

from edge_llava.converters.quant_types import encoded_bytes
from edge_llava.errors import ConversionError
from edge_llava.ggml.library import bind

_F16_MAX = 65504.0


class Encoder:
    """ggml's encoders on several threads (ctypes releases Python's lock while they run)."""

    def __init__(self, n_threads: int) -> None:
        self._n_threads = n_threads
        self._pool = ThreadPoolExecutor(n_threads, "edge-llava-quantize")

    def encode(
        self,
        name: str,
        values: NDArray[np.float32],
        type_: GgmlType,
        importance: NDArray[np.float32] | None = None,
    ) -> NDArray[np.uint8]:
        """Encodes a tensor.

        Args:
            name: For messages.
            values: float32, C-contiguous; the last axis is the row.
            type_: A type that fits the row.
            importance: float32 (K,), how much an error in each column counts; None: all the same.

        Returns:
            uint8 (n_bytes,).

        Raises:
            ConversionError: If a value is not finite, or does not fit in F16.
            ValueError: If the type needs an importance matrix and none is given.
        """
        rows = values.reshape(-1, values.shape[-1])
        largest = max(-float(rows.min()), float(rows.max()))
        if not np.isfinite(largest):
            raise ConversionError(f"{name} contains infinite or undefined numbers: the checkpoint is damaged.")
        if type_ is GgmlType.F16 and largest > _F16_MAX:
            raise ConversionError(f"{name} contains {largest:g}, beyond F16's {_F16_MAX:g}. Use --quant BF16 or F32.")
        if type_ is GgmlType.F32:
            return rows.reshape(-1).view(np.uint8)
        return self._quantize(rows, type_, importance)

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown()

    def _quantize(
        self, rows: NDArray[np.float32], type_: GgmlType, importance: NDArray[np.float32] | None
    ) -> NDArray[np.uint8]:
        quantize = bind(
            "ggml_quantize_chunk",
            ctypes.c_size_t,
            [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p],
        )
        if importance is None and bind("ggml_quantize_requires_imatrix", ctypes.c_bool, [ctypes.c_int])(int(type_)):
            raise ValueError(f"{type_.name} needs an importance matrix")  # ggml would end the process
        bind("ggml_quantize_init", None, [ctypes.c_int])(int(type_))
        n_rows, width = rows.shape
        encoded = np.empty(encoded_bytes(type_, rows.shape), np.uint8)
        per_thread = -(-n_rows // (4 * self._n_threads))
        weights = None if importance is None else importance.ctypes.data

        def work(first: int) -> int:
            n = min(per_thread, n_rows - first)
            written: int = quantize(int(type_), rows.ctypes.data, encoded.ctypes.data, first * width, n, width, weights)
            return written

        written = sum(self._pool.map(work, range(0, n_rows, per_thread)))
        if written != encoded.nbytes:
            raise ConversionError(f"ggml wrote {written} bytes where {encoded.nbytes} were expected ({type_.name}).")
        return encoded
