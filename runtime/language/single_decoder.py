"""The language model at work on one conversation: prefill, decode. Owns the context, the KV cache and n_past."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from edge_llava.bundle.manifest import LanguageSpec
from edge_llava.errors import BackendError
from edge_llava.runtime.kv.state import read_state, write_state
from edge_llava.runtime.language.abort import Abortable
from edge_llava.runtime.language.language_model import LanguageModel
from edge_llava.runtime.language.llama_log import last_error
from edge_llava.runtime.language.llama_params import context_params, context_settings
from edge_llava.runtime.lifetime.cancel import Cancelled
from edge_llava.runtime.lifetime.native import freed_with
from edge_llava.runtime.options import DecoderOptions, n_ctx
from edge_llava.runtime.runs import Position, count_common

_ABORTED = 2


class Decoder(LanguageModel):
    """A language model with one context of one sequence. Not thread-safe: the caller takes turns.

    Attributes:
        n_ctx: Positions of the context.
        settings: Everything that decides which numbers the KV cache holds, beside the weights and llama.cpp's build.
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
        super().__init__(path, spec, options)
        self._positions: list[Position] = []
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
        spec = self.spec
        params = context_params(spec, options)
        self.settings = self._weight_settings | context_settings(params)
        self._context: Any = self._new_context(params, "Try a smaller one with -c.")
        self._free_context = freed_with(self, llama_cpp.llama_free, self._context)
        # llama.cpp rounds the context up, after it has cut the batch to what was asked for
        self.n_ctx = min(n_ctx(spec, options), int(llama_cpp.llama_n_ctx(self._context)))
        self._n_batch, self._n_threads = int(llama_cpp.llama_n_batch(self._context)), int(params.n_threads)
        self._batch: Any = llama_cpp.llama_batch_init(self._n_batch, 0, 1)
        self._free_batch = freed_with(self, llama_cpp.llama_batch_free, self._batch)
        self._memory = llama_cpp.llama_get_memory(self._context)

    @property
    def context(self) -> Any:
        """llama.cpp's context handle, to sample from."""
        return self._context

    @property
    def on_gpu(self) -> bool:
        """Whether blocks of the model are on a GPU."""
        return bool(llama_cpp.llama_supports_gpu_offload()) and self.settings["n_gpu_layers"] != 0

    @property
    def n_past(self) -> int:
        """Positions in the KV cache."""
        return len(self._positions)

    def keep_common_prefix(self, wanted: Sequence[Position]) -> int:
        """Keeps the longest part of the KV cache that `wanted` begins with, and drops the rest.

        At least the last wanted position is dropped, so that prefilling it gives logits.

        Returns:
            Positions kept.
        """
        self.truncate(self.count_common(wanted))
        return self.n_past

    def count_common(self, wanted: Sequence[Position]) -> int:
        """Positions that `keep_common_prefix` would keep; only looks, so another thread may be answering."""
        return count_common(self._positions, wanted[:-1])

    def truncate(self, n_positions: int) -> None:
        """Drops everything in the KV cache from position `n_positions` on."""
        if not llama_cpp.llama_memory_seq_rm(self._memory, 0, n_positions, -1):
            llama_cpp.llama_memory_clear(self._memory, True)
            n_positions = 0
        del self._positions[n_positions:]

    def state(self, beginning: Sequence[Position]) -> bytearray:
        """A copy of what the KV cache holds for these positions, for `restore`; empty if it begins otherwise."""
        if self._positions[: len(beginning)] != list(beginning):
            return bytearray()
        return read_state(self._context, len(beginning))

    def restore(self, state: bytearray, positions: Sequence[Position]) -> bool:
        """Replaces the KV cache by a state of exactly these positions.

        Args:
            state: What `state` gave, of a decoder of the same file, build and settings.
            positions: What its positions were computed from.

        Returns:
            Whether it is so now. If not, the KV cache is empty.
        """
        self._positions.clear()
        if write_state(self._context, state) != len(positions):
            self.truncate(0)
            return False
        self._positions += positions
        return True

    def prefill_tokens(self, tokens: Sequence[int], cancel: threading.Event, *, n_spared: int = 0) -> None:
        """Appends tokens to the KV cache; the logits of the last one can be sampled.

        Args:
            tokens: Any number.
            cancel: Set it from another thread to stop.
            n_spared: CPU threads that are left to other work; one is always taken.

        Raises:
            Cancelled: If `cancel` was set; positions computed before remain.
            BackendError: If llama.cpp fails.
        """
        with self._sparing(n_spared), self._abortable(cancel):
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
            key: What the rows are known by, see `ImageEmbedding.identity`.
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
        return np.ctypeslib.as_array(address, shape=(self.spec.n_vocab,)).copy()

    def close(self) -> None:
        """Frees context and model; safe to call twice."""
        self._close_context()
        super().close()

    def _close_context(self) -> None:
        self._free_batch()
        self._free_context()
        self._batch = self._context = None

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

    @contextmanager
    def _sparing(self, n_threads: int) -> Iterator[None]:
        n = self._n_threads
        llama_cpp.llama_set_n_threads(self._context, n, max(1, n - n_threads))
        try:
            yield
        finally:
            llama_cpp.llama_set_n_threads(self._context, n, n)

    def _abortable(self, cancel: threading.Event) -> Abortable:
        return Abortable(self._context, cancel.is_set)
