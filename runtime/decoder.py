"""The language model on llama.cpp: tokenize, prefill, decode. Owns the context, the KV cache and n_past."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from edge_llava.errors import BackendError
from edge_llava.manifest import LanguageSpec
from edge_llava.profile import KvType
from edge_llava.runtime.abort import Abortable
from edge_llava.runtime.cancel import Cancelled
from edge_llava.runtime.language_file import check_language_file
from edge_llava.runtime.llama_log import last_error, route_log
from edge_llava.runtime.threads import count_cores

_GGML_TYPES = {"f32": 0, "f16": 1, "q8_0": 8}
_ABORTED = 2
_MAX_COUNT = 1 << 20  # far beyond any LLaVA; llama.cpp's own counts would wrap around

Position = int | tuple[str, int]
"""What one position of the KV cache was computed from: a token id, or (image key, row)."""


@dataclass(frozen=True)
class DecoderOptions:
    """How the language model runs on this device.

    Attributes:
        n_ctx: Positions of the context; None takes the trained length, at most 4,096.
        n_threads: CPU threads; None takes the physical cores.
        n_batch: Positions computed at a time while prefilling.
        n_gpu_layers: Blocks on the GPU, for CUDA and Metal builds; -1 all, 0 none. CPU builds ignore it.
        kv_type: Numbers of the KV cache; "auto" takes "f32" for F32 bundles and "f16" for all others. "q8_0" takes half
            of the latter's memory, is less exact, and needs flash attention.
        flash_attention: None leaves it to llama.cpp, except for F32 bundles, where it is off: llama.cpp's rounds to
            half precision, which moves logits by 5e-3 where the plain one stays within 1e-5 of the reference.
        repack: Lay quantized weights out anew for this CPU, where that is safe: faster decode, and their size in memory
            once more.

    Raises:
        ValueError: If a value is out of range.
    """

    n_ctx: int | None = None
    n_threads: int | None = None
    n_batch: int = 512
    n_gpu_layers: int = -1
    kv_type: KvType = "auto"
    flash_attention: bool | None = None
    repack: bool = True

    def __post_init__(self) -> None:
        counts = {"n_ctx": self.n_ctx, "n_threads": self.n_threads, "n_batch": self.n_batch}
        faults = [
            f"{name} must be from 1 to {_MAX_COUNT}"
            for name, value in counts.items()
            if value is not None and not 1 <= value <= _MAX_COUNT
        ]
        if self.kv_type not in ("auto", *_GGML_TYPES):
            faults.append(f"kv_type must be auto, {' or '.join(_GGML_TYPES)}")
        if self.kv_type == "q8_0" and self.flash_attention is False:
            faults.append("kv_type q8_0 needs flash attention")
        if faults:
            raise ValueError("; ".join(faults))


class Decoder:
    """One llama.cpp model with one context of one sequence. Not thread-safe: the caller takes turns.

    Attributes:
        n_ctx: Positions of the context.
    """

    def __init__(self, path: Path, spec: LanguageSpec, options: DecoderOptions) -> None:
        """
        Args:
            path: language.gguf.
            spec: What the manifest says of it.
            options: Device settings.

        Raises:
            BundleError: If the file is damaged or is not what the manifest says.
            BackendError: If llama.cpp cannot load it or make a context.
        """
        check_language_file(path, spec)
        route_log()
        llama_cpp.llama_backend_init()
        self._spec = spec
        self._positions: list[Position] = []
        self._batch: Any = None
        self._context: Any = None
        self._model = llama_cpp.llama_model_load_from_file(os.fsencode(path), _model_params(options))
        if not self._model:
            raise BackendError(f"llama.cpp cannot load {path}: {last_error()}. Is there enough memory?")
        self._vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self._open_context(options)

    def reconfigure(self, options: DecoderOptions) -> None:
        """Makes a new, empty context on the same weights, whose settings (repack, n_gpu_layers) stay as they are.

        Raises:
            BackendError: If llama.cpp cannot make it; the decoder is closed then.
        """
        self._close_context()
        self._positions.clear()
        self._open_context(options)

    def _open_context(self, options: DecoderOptions) -> None:
        spec = self._spec
        self._context = llama_cpp.llama_init_from_model(self._model, _context_params(spec, options))
        if not self._context:
            self.close()
            raise BackendError(f"llama.cpp cannot make a context: {last_error()}. Try a smaller one with -c.")
        # llama.cpp rounds the context up, after it has cut the batch to what was asked for
        self.n_ctx = min(_n_ctx(spec, options), int(llama_cpp.llama_n_ctx(self._context)))
        self._n_batch = int(llama_cpp.llama_n_batch(self._context))
        self._batch = llama_cpp.llama_batch_init(self._n_batch, 0, 1)
        self._memory = llama_cpp.llama_get_memory(self._context)

    @property
    def vocabulary(self) -> Any:
        """llama.cpp's vocabulary handle."""
        return self._vocabulary

    @property
    def context(self) -> Any:
        """llama.cpp's context handle, to sample from."""
        return self._context

    @property
    def n_past(self) -> int:
        """Positions in the KV cache."""
        return len(self._positions)

    def tokenize(self, text: str, *, add_bos: bool) -> list[int]:
        """Token ids of a text; special tokens written in it are recognized, as in training."""
        data = text.encode()
        room = len(data) + 2
        tokens = (ctypes.c_int32 * room)()
        n = llama_cpp.llama_tokenize(self._vocabulary, data, len(data), tokens, room, add_bos, True)
        if n < 0:
            raise BackendError(f"llama.cpp cannot tokenize a text of {len(data)} bytes.")
        return list(tokens[:n])

    def tokenize_within(self, text: str) -> list[int]:
        """Token ids of a text that goes on from another: no space is put before it."""
        lead = self.tokenize("\n", add_bos=False)  # no token of LLaMA's vocabulary crosses a line
        ids = self.tokenize(f"\n{text}", add_bos=False)
        return ids[len(lead) :] if ids[: len(lead)] == lead else self.tokenize(text, add_bos=False)

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes that a token stands for; empty for control tokens, unless `special` asks for their names."""
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            n = llama_cpp.llama_token_to_piece(self._vocabulary, token, buffer, room, 0, special)
            if n >= 0:
                return buffer.raw[:n]
            room = -n

    def is_end(self, token: int) -> bool:
        """Whether a token ends an answer."""
        return token == self._spec.eos or bool(llama_cpp.llama_vocab_is_eog(self._vocabulary, token))

    def keep_common_prefix(self, wanted: Sequence[Position]) -> int:
        """Keeps the longest part of the KV cache that `wanted` begins with, and drops the rest.

        At least the last wanted position is dropped, so that prefilling it gives logits.

        Returns:
            Positions kept.
        """
        n_common = 0
        for have, want in zip(self._positions, wanted[:-1], strict=False):
            if have != want:
                break
            n_common += 1
        self.truncate(n_common)
        return self.n_past

    def truncate(self, n_positions: int) -> None:
        """Drops everything in the KV cache from position `n_positions` on."""
        if not llama_cpp.llama_memory_seq_rm(self._memory, 0, n_positions, -1):
            llama_cpp.llama_memory_clear(self._memory, True)
            n_positions = 0
        del self._positions[n_positions:]

    def prefill_tokens(self, tokens: Sequence[int], cancel: threading.Event) -> None:
        """Appends tokens to the KV cache; the logits of the last one can be sampled.

        Raises:
            Cancelled: If `cancel` was set; positions computed before remain.
            BackendError: If llama.cpp fails.
        """
        with self._abortable(cancel):
            for start in range(0, len(tokens), self._n_batch):
                chunk = tokens[start : start + self._n_batch]
                for i, token in enumerate(chunk):
                    self._batch.token[i] = token
                    self._place(self._batch, i)
                self._batch.logits[len(chunk) - 1] = start + len(chunk) == len(tokens)
                self._run(self._batch, list(chunk), cancel)

    def prefill_embedding(self, rows: NDArray[np.float32], key: str, first_row: int, cancel: threading.Event) -> None:
        """Appends rows of an image embedding to the KV cache.

        Args:
            rows: float32 (n, n_embd), C-contiguous.
            key: The image's key.
            first_row: Index of rows[0] in the whole embedding.
            cancel: Set it from another thread to stop.

        Raises:
            Cancelled: If `cancel` was set; positions computed before remain.
            BackendError: If llama.cpp fails.
        """
        room = min(self._n_batch, len(rows))
        batch = llama_cpp.llama_batch_init(room, rows.shape[1], 1)
        try:
            with self._abortable(cancel):
                for start in range(0, len(rows), room):
                    chunk = rows[start : start + room]
                    ctypes.memmove(batch.embd, chunk.ctypes.data, chunk.nbytes)
                    for i in range(len(chunk)):
                        self._place(batch, i)
                    self._run(batch, [(key, first_row + start + i) for i in range(len(chunk))], cancel)
        finally:
            llama_cpp.llama_batch_free(batch)

    def decode(self, token: int) -> None:
        """Appends one token; its logits can be sampled.

        Raises:
            BackendError: If llama.cpp fails.
        """
        self._batch.token[0] = token
        self._place(self._batch, 0)
        self._batch.logits[0] = True
        self._run(self._batch, [token], None)

    def logits(self) -> NDArray[np.float32]:
        """Logits (n_vocab,) float32 of the last position, a copy."""
        address = llama_cpp.llama_get_logits_ith(self._context, -1)
        return np.ctypeslib.as_array(address, shape=(self._spec.n_vocab,)).copy()

    def close(self) -> None:
        """Frees context and model; safe to call twice."""
        self._close_context()
        if self._model:
            llama_cpp.llama_model_free(self._model)
            self._model = None

    def _close_context(self) -> None:
        if self._batch is not None:
            llama_cpp.llama_batch_free(self._batch)
            self._batch = None
        if self._context:
            llama_cpp.llama_free(self._context)
            self._context = None

    def _place(self, batch: Any, i: int) -> None:
        batch.pos[i] = len(self._positions) + i
        batch.n_seq_id[i] = 1
        batch.seq_id[i][0] = 0
        batch.logits[i] = False

    def _run(self, batch: Any, positions: list[Position], cancel: threading.Event | None) -> None:
        if cancel is not None and cancel.is_set():
            raise Cancelled
        batch.n_tokens = len(positions)
        status = llama_cpp.llama_decode(self._context, batch)
        if status == 0:
            self._positions += positions
            return
        self.truncate(len(self._positions))  # parts of a failed batch may have stayed in the cache
        if status == _ABORTED:
            raise Cancelled
        raise BackendError(f"llama.cpp failed to decode (status {status}): {last_error()}.")

    def _abortable(self, cancel: threading.Event) -> Abortable:
        return Abortable(self._context, cancel.is_set)


def _n_ctx(spec: LanguageSpec, options: DecoderOptions) -> int:
    return options.n_ctx if options.n_ctx is not None else min(spec.n_ctx_train, 4096)


def _model_params(options: DecoderOptions) -> Any:
    params = llama_cpp.llama_model_default_params()
    if options.n_gpu_layers >= 0:
        params.n_gpu_layers = options.n_gpu_layers
    params.use_extra_bufts = options.repack and can_repack()
    return params


def can_repack() -> bool:
    """Whether weights may be repacked: not where llama.cpp was built with AMX kernels, which come with it.

    GCC before 12.4 and 13.3 compiles their set-up wrongly (its bug 114098), and the first product kills the process.
    """
    return b"AMX_INT8 = 1" not in llama_cpp.llama_print_system_info()


def _context_params(spec: LanguageSpec, options: DecoderOptions) -> Any:
    is_exact = spec.quant == "F32"
    kv_type = options.kv_type if options.kv_type != "auto" else ("f32" if is_exact else "f16")
    keeps_exact = is_exact and kv_type != "q8_0"
    flash_attention = False if options.flash_attention is None and keeps_exact else options.flash_attention
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = _n_ctx(spec, options)
    params.n_batch = params.n_ubatch = options.n_batch
    params.n_threads = params.n_threads_batch = options.n_threads or count_cores()
    params.type_k = params.type_v = _GGML_TYPES[kv_type]
    params.flash_attn_type = -1 if flash_attention is None else int(flash_attention)  # -1: llama.cpp decides
    params.no_perf = True
    return params
