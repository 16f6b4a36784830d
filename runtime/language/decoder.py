"""The language model at work: tokens, or image rows, of one or several sequences at a time."""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from edge_llava.bundle.language_spec import LanguageSpec
from edge_llava.device.cpu_times import recent_cpu_times
from edge_llava.device.thread_count import ThreadCount
from edge_llava.errors import BackendError
from edge_llava.ggml.devices import describe_place
from edge_llava.runtime.kv.host_cache import HostCache
from edge_llava.runtime.kv.sequence import KvSequence
from edge_llava.runtime.kv.sequences import KvSequences, NoCells
from edge_llava.runtime.language.language_model import LanguageModel
from edge_llava.runtime.language.llama_log import last_error
from edge_llava.runtime.language.llama_params import context_params, decisive_settings, set_sizes
from edge_llava.runtime.lifetime.cancel import Cancelled
from edge_llava.runtime.lifetime.native import freed_with, weak_call
from edge_llava.runtime.lifetime.work_thread import run_aside
from edge_llava.runtime.options import DecoderOptions, n_ctx
from edge_llava.runtime.runs import Position

_NO_CELLS, _ABORTED = 1, 2
_PLAIN = 0  # LLAMA_FLASH_ATTN_TYPE_DISABLED
_ROUND = 256  # positions by which llama.cpp's attention looks at the cache
_log = logging.getLogger("edge_llava.language")


@dataclass(frozen=True)
class TokenChunk:
    """Tokens that continue what a sequence holds.

    Attributes:
        sequence: Where they go.
        ids: The tokens.
        is_last: Whether the logits of the last one are wanted.
    """

    sequence: KvSequence
    ids: Sequence[int]
    is_last: bool

    @property
    def n_tokens(self) -> int:
        """Positions that it takes."""
        return len(self.ids)


@dataclass(frozen=True)
class RowChunk:
    """Rows of an image that continue what a sequence holds.

    Attributes:
        sequence: Where they go.
        rows: float32 (n, n_embd), C-contiguous.
        identity: What the image's rows are known by.
        first_row: Index of rows[0] in the whole image.
    """

    sequence: KvSequence
    rows: NDArray[np.float32]
    identity: str
    first_row: int
    is_last: ClassVar[bool] = False  # no token is sampled after a row

    @property
    def n_tokens(self) -> int:
        """Positions that it takes."""
        return len(self.rows)

    @property
    def positions(self) -> list[Position]:
        """What each of them stands for."""
        return [(self.identity, self.first_row + row) for row in range(len(self.rows))]


Chunk = TokenChunk | RowChunk
_Part = tuple[KvSequence, Sequence[Position]]  # what continues a sequence


class AbortSwitch:
    """Stops llama.cpp in the middle of a graph: it looks at this before each operation; another thread sets it.

    The question is C's `strlen`, of a text that is "" or one character long: a function of Python's would have to wait
    for Python's lock hundreds of times in a graph, while other threads serve clients.
    """

    def __init__(self) -> None:
        library = ctypes.cdll.msvcrt if os.name == "nt" else ctypes.CDLL(None)
        self._callback = ctypes.cast(library.strlen, llama_cpp.ggml_abort_callback)
        self._text = ctypes.create_string_buffer(2)

    def attach(self, context: Any) -> None:
        """From now on it stops this context, which must not outlive it."""
        llama_cpp.llama_set_abort_callback(context, self._callback, ctypes.cast(self._text, ctypes.c_void_p))

    def set(self) -> None:
        """Stops what is being computed, and what will be until `clear`."""
        self._text[0] = b"1"

    def clear(self) -> None:
        """Lets llama.cpp compute again."""
        self._text[0] = b"\0"


class Decoder(LanguageModel):
    """A language model with one context of several sequences. For one thread, but for `abort`.

    Attributes:
        context: llama.cpp's handle, to sample from.
        n_ctx: Positions of one conversation.
        n_batch: Positions that are computed at a time.
        settings: Everything that decides which numbers the KV cache holds, apart from the weights, llama.cpp's build
            and the devices.
        sequences: What is in the KV cache.
        abort: Set it from any thread to stop what is being computed.
    """

    def __init__(
        self,
        path: Path,
        spec: LanguageSpec,
        options: DecoderOptions,
        *,
        n_parallel: int = 1,
        n_cells: int | None = None,
        n_first: int | None = None,
        host_bytes: int = 0,
    ) -> None:
        """
        Args:
            path: language.gguf.
            spec: What the manifest says about it.
            options: Device settings; `n_ctx` is of one conversation.
            n_parallel: Conversations at a time.
            n_cells: Positions of the KV cache, for all together; None: room for `n_parallel` full conversations.
            n_first: With how many of them it begins; it grows where that is not enough. None: with all.
            host_bytes: Memory for conversations that are not being computed.

        Raises:
            BundleError: If the file is damaged or is not what the manifest says.
            BackendError: If llama.cpp cannot load it or make a context, or has no device that the options name.
        """
        super().__init__(path, spec, options)
        self._n_parallel, self._n_cells, self._n_first, self._host_bytes = n_parallel, n_cells, n_first, host_bytes
        self.abort = AbortSwitch()
        self._open_cache(options)

    def reconfigure(self, options: DecoderOptions) -> None:
        """Makes a new, empty context on the same weights: repack, n_gpu_layers and devices stay as they are.

        Raises:
            BackendError: If llama.cpp cannot make it; the decoder is closed then.
        """
        self._free_context()
        self._open_cache(options)

    def _open_cache(self, options: DecoderOptions) -> None:
        """Makes the first context, and notes what it holds: nothing."""
        params = context_params(self.spec, options, on_cpu=not self.devices, n_parallel=self._n_parallel)
        set_sizes(params, self.spec, options, self._n_parallel, self._n_cells)
        n_most, n_seq_max = int(params.n_ctx), int(params.n_seq_max)
        self.n_ctx = min(n_ctx(self.spec, options), n_most)
        self.settings = decisive_settings(self._params, params)
        self._context_params = params
        # With flash attention, another number of threads gives other numbers: it adds up in another order. Of several
        # conversations, the others in a batch change them as well.
        adapts = options.may_adapt_threads and (params.flash_attn_type == _PLAIN or self._n_parallel > 1)
        self._threads, self._n_spared = ThreadCount(int(params.n_threads), adapts=adapts, before=recent_cpu_times()), 0
        # llama.cpp cuts the batch to the context
        n_first = n_most if self._n_first is None else min(n_most, _round_up(max(self._n_first, int(params.n_batch))))
        if not self._open_context(n_first):
            super().close()  # there is no context to free first
            size = f"for {params.n_ctx} positions of {self._n_parallel} conversations at a time"
            reason = last_error().rstrip(".")
            raise BackendError(f"llama.cpp cannot make a context {size}: {reason}. {self._memory_advice}")
        self.sequences = KvSequences(
            self.context, n_seq_max - 1, int(params.n_ctx), HostCache(self._host_bytes), n_most, weak_call(self._grow)
        )

    def _open_context(self, n_cells: int) -> bool:
        """Makes a context of so many positions; False if llama.cpp cannot."""
        params = self._context_params
        params.n_ctx = n_cells
        with self._errors_of_backends():
            self.context: Any = run_aside(lambda: llama_cpp.llama_init_from_model(self._model, params))
        if not self.context:
            return False
        self._batches: list[Any] = []
        self._free_context = freed_with(self, _free, self.context, self._batches)
        self.n_batch = int(llama_cpp.llama_n_batch(self.context))
        self._set_threads()
        self.abort.attach(self.context)
        for n_embd in (0, self.spec.n_embd):
            self._batches.append(llama_cpp.llama_batch_init(self.n_batch, n_embd, 1))
        return True

    def _grow(self, n_needed: int) -> None:
        """Makes the KV cache larger, at least twice, where it may be; what it holds moves along.

        Raises:
            BackendError: If llama.cpp cannot even make it as large as it was; nothing can be computed then.
        """
        sequences, n_before = self.sequences, self.sequences.n_cells
        n_cells = min(sequences.n_cells_max, max(2 * n_before, _round_up(n_needed)))
        try:
            held = sequences.take_out()
        except MemoryError:
            _log.warning("the KV cache stays at %d positions: there is too little memory to move it", n_before)
            sequences.n_cells_max = n_before
            return
        self._free_context()
        if not self._open_context(n_cells):
            _log.warning("the KV cache stays at %d positions: %s", n_before, last_error())
            sequences.n_cells_max = n_cells = n_before
            if not self._open_context(n_before):
                raise BackendError(f"llama.cpp cannot make its context again: {last_error()}. {self._memory_advice}")
        sequences.put_in(self.context, n_cells, held)

    @property
    def on_gpu(self) -> bool:
        """Whether blocks of the model are on a GPU."""
        return self.place != "cpu"

    @cached_property
    def place(self) -> str:
        """Where the blocks are: "cpu", or the device and how many of them, "Vulkan0 33/33"."""
        return describe_place(self.devices, self.settings["n_gpu_layers"], self.spec.n_layer)

    def spare_threads(self, n_spared: int) -> None:
        """From now on, prompts leave so many CPU threads to other work; one is always taken."""
        self._n_spared = n_spared
        self._set_threads()

    def _set_threads(self) -> None:
        n = self._threads.n
        llama_cpp.llama_set_n_threads(self.context, n, max(1, n - self._n_spared))

    def logits(self, index: int = -1) -> NDArray[np.float32]:
        """Logits (n_vocab,) float32 of a position of the last batch, -1 the last one; a copy."""
        address = llama_cpp.llama_get_logits_ith(self.context, index)
        return np.ctypeslib.as_array(address, shape=(self.spec.n_vocab,)).copy()

    def decode_tokens(self, chunks: Sequence[TokenChunk]) -> list[int]:
        """Appends tokens to their sequences, all at once.

        Returns:
            Of each chunk, the index of its last token in the batch, to sample from where its logits were wanted.

        Raises:
            NoCells: If the KV cache is full.
            Cancelled: If `abort` was set.
            BackendError: If llama.cpp fails.
        """
        batch, parts = self._batches[0], [(chunk.sequence, chunk.ids) for chunk in chunks]
        ends = self._place(batch, parts)
        for chunk, end in zip(chunks, ends, strict=True):
            batch.logits[end] = chunk.is_last
            for i, token in enumerate(chunk.ids, end + 1 - len(chunk.ids)):
                batch.token[i] = token
        self._run(batch, parts)
        return ends

    def decode_rows(self, chunks: Sequence[RowChunk]) -> None:
        """Appends rows of images to their sequences, all at once.

        Raises: As `decode_tokens`.
        """
        batch, parts = self._batches[1], [(chunk.sequence, chunk.positions) for chunk in chunks]
        for chunk, end in zip(chunks, self._place(batch, parts), strict=True):
            offset = (end + 1 - len(chunk.rows)) * chunk.rows[0].nbytes
            ctypes.memmove(ctypes.addressof(batch.embd.contents) + offset, chunk.rows.ctypes.data, chunk.rows.nbytes)
        self._run(batch, parts)

    def close(self) -> None:
        """Frees context and weights; safe to call twice."""
        self._free_context()
        self.context = None
        super().close()

    def _place(self, batch: Any, parts: Sequence[_Part]) -> list[int]:
        """Fills in sequences and positions; gives the index of each part's last position in the batch."""
        n, ends = 0, []
        for sequence, added in parts:
            for position in range(len(sequence.positions), len(sequence.positions) + len(added)):
                batch.pos[n] = position
                batch.n_seq_id[n] = 1
                batch.seq_id[n][0] = sequence.id
                batch.logits[n] = False
                n += 1
            ends.append(n - 1)
        batch.n_tokens = n
        return ends

    def note_others(self) -> None:
        """Looks at what other programs do, by which the number of threads is chosen."""
        if self._threads.update():
            self._set_threads()

    def pause(self) -> None:
        """Nothing is computed until `note_others` is called, at the start of a turn."""
        self._threads.pause()

    def _run(self, batch: Any, parts: Sequence[_Part]) -> None:
        self.note_others()
        status = llama_cpp.llama_decode(self.context, batch)
        if status == 0:
            for sequence, added in parts:
                self.sequences.extend(sequence, added)
            return
        for sequence, _ in parts:  # some of a failed batch may have stayed in the cache
            self.sequences.truncate(sequence, len(sequence.positions))
        if status == _NO_CELLS:
            raise NoCells
        if status == _ABORTED:
            raise Cancelled
        raise BackendError(f"llama.cpp failed to decode (status {status}): {last_error()}.")


def _round_up(n_positions: int) -> int:
    return -(-n_positions // _ROUND) * _ROUND


def _free(context: Any, batches: list[Any]) -> None:
    for batch in batches:
        llama_cpp.llama_batch_free(batch)
    batches.clear()
    llama_cpp.llama_free(context)
