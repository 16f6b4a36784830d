"""Runs llama.cpp's own vision (mtmd) on an image, to measure an exported mmproj, never to answer.

Source: mtmd.h of the llama.cpp that llama-cpp-python 0.3.36 ships.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import ExitStack
from pathlib import Path

import llama_cpp
import numpy as np
from llama_cpp import mtmd_cpp
from numpy.typing import NDArray

from edge_llava.errors import BackendError
from edge_llava.ggml.devices import device_array

_IMAGE = 1  # MTMD_INPUT_CHUNK_TYPE_IMAGE


def _ignore(level: int, text: bytes, data: object) -> None:
    """llama.cpp's tools write to stderr; a library does not."""


_silence = llama_cpp.llama_log_callback(_ignore)


def encode_with_mtmd(
    mmproj: Path, language: Path, squares: list[NDArray[np.uint8]], n_threads: int
) -> list[NDArray[np.float32]]:
    """Computes embedding rows (P, E) of squares uint8 (S, S, 3) by llama.cpp's graph on the CPU.

    Raises:
        BackendError: If llama.cpp cannot load the pair or encode an image.
    """
    with ExitStack() as opened:
        mtmd_cpp.mtmd_log_set(_silence, None)
        mtmd_cpp.mtmd_helper_log_set(_silence, None)
        model_params = llama_cpp.llama_model_default_params()
        model_params.devices, model_params.use_extra_bufts = ctypes.addressof(device_array(())), False
        model = llama_cpp.llama_model_load_from_file(os.fsencode(language), model_params)
        if not model:
            raise BackendError(f"llama.cpp cannot load {language}.")
        opened.callback(llama_cpp.llama_model_free, model)
        params = mtmd_cpp.mtmd_context_params_default()
        params.use_gpu, params.print_timings, params.n_threads, params.warmup = False, False, n_threads, False
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        context = mtmd_cpp.mtmd_init_from_file(os.fsencode(mmproj), model, params)
        if not context:
            raise BackendError(f"llama.cpp's mtmd cannot load {mmproj} for {language}.")
        opened.callback(mtmd_cpp.mtmd_free, context)
        n_embd = llama_cpp.llama_model_n_embd(model)
        return [_encode(context, square, n_embd) for square in squares]


def _encode(context: object, square: NDArray[np.uint8], n_embd: int) -> NDArray[np.float32]:
    height, width, _ = square.shape
    pixels = np.ascontiguousarray(square)
    with ExitStack() as opened:
        data = pixels.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        bitmap = mtmd_cpp.mtmd_bitmap_init(width, height, data)
        opened.callback(mtmd_cpp.mtmd_bitmap_free, bitmap)
        chunks = mtmd_cpp.mtmd_input_chunks_init()
        opened.callback(mtmd_cpp.mtmd_input_chunks_free, chunks)
        marker = mtmd_cpp.mtmd_default_marker()
        text = mtmd_cpp.mtmd_input_text(marker, len(marker), False, False)
        bitmaps = (mtmd_cpp.mtmd_bitmap_p_ctypes * 1)(bitmap)
        if mtmd_cpp.mtmd_tokenize(context, chunks, ctypes.byref(text), bitmaps, 1) != 0:
            raise BackendError("llama.cpp's mtmd cannot prepare an image.")
        for index in range(mtmd_cpp.mtmd_input_chunks_size(chunks)):
            chunk = mtmd_cpp.mtmd_input_chunks_get(chunks, index)
            if mtmd_cpp.mtmd_input_chunk_get_type(chunk) != _IMAGE:
                continue
            if mtmd_cpp.mtmd_encode_chunk(context, chunk) != 0:
                raise BackendError("llama.cpp's mtmd cannot encode an image.")
            n_rows = mtmd_cpp.mtmd_input_chunk_get_n_tokens(chunk)
            rows = np.ctypeslib.as_array(mtmd_cpp.mtmd_get_output_embd(context), (n_rows, n_embd))
            return rows.copy()
    raise BackendError("llama.cpp's mtmd returned no image chunk for an image.")
