"""Limits that are compiled into llama.cpp. Beyond them it ends the process instead of reporting an error.

Source: llama.cpp as vendored by llama-cpp-python 0.3.36; the file of each is named next to it.
"""

from __future__ import annotations

MAX_BLOCKS = 512  # LLAMA_MAX_LAYERS, src/llama-hparams.h: asserted by load_hparams
MAX_SEQUENCES = 256  # LLAMA_MAX_SEQ, src/llama-cparams.h
MAX_TENSOR_NAME_BYTES = 63  # GGML_MAX_NAME less the final zero, ggml/include/ggml.h
MAX_TENSOR_AXES = 4  # GGML_MAX_DIMS, ggml/include/ggml.h
TENSOR_ALIGNMENT = 32  # TENSOR_ALIGNMENT, ggml/src/ggml-impl.h: asserted of every buffer, also of a mapped file
MAX_INT32 = 2**31 - 1  # tensor sides, token ids and positions are int32 in many places of llama.h and ggml
MAX_TOKEN_BYTES = 1 << 16  # our own: a token's text is copied for each use; the longest of known ones has 512 bytes
