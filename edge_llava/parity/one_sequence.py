"""A decoder used for one sequence, step by step, for comparisons and measurements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_llava.runtime.language.decoder import Decoder, RowChunk, TokenChunk
from edge_llava.runtime.lifetime.work_thread import WorkThread


class OneSequence:
    """Prefill and decode of one sequence, which begins empty.

    Like the engine, it computes on a thread of its own: on the caller's, ONNX Runtime or torch may have set up the AMX
    unit for themselves, which ggml does not notice.

    Attributes:
        decoder: What computes it; nothing else uses it at the same time.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self._thread = WorkThread("edge-llava-sequence")
        self._sequence = decoder.sequences.claim([])
        self.truncate(0)

    @property
    def n_past(self) -> int:
        """Number of positions in the KV cache."""
        return len(self._sequence.positions)

    def truncate(self, n_positions: int) -> None:
        """Drops everything from position `n_positions` on."""
        self.decoder.sequences.truncate(self._sequence, n_positions)

    def prefill_tokens(self, tokens: Sequence[int]) -> None:
        """Appends tokens; the logits of the last one can be read.

        Raises:
            BackendError: If llama.cpp fails.
        """
        n_batch = self.decoder.n_batch
        for start in range(0, len(tokens), n_batch):
            chunk = tokens[start : start + n_batch]
            is_last = start + len(chunk) == len(tokens)
            self._compute(self.decoder.decode_tokens, [TokenChunk(self._sequence, chunk, is_last)])

    def prefill_rows(self, rows: NDArray[np.float32]) -> None:
        """Appends the rows of an image, float32 (n, n_embd).

        Raises:
            BackendError: If llama.cpp fails.
        """
        rows, n_batch = np.ascontiguousarray(rows), self.decoder.n_batch
        for start in range(0, len(rows), n_batch):
            chunk = RowChunk(self._sequence, rows[start : start + n_batch], "image", start)
            self._compute(self.decoder.decode_rows, [chunk])

    def decode(self, token: int) -> None:
        """Appends one token; its logits can be read.

        Raises:
            BackendError: If llama.cpp fails.
        """
        self._compute(self.decoder.decode_tokens, [TokenChunk(self._sequence, (token,), is_last=True)])

    def logits(self) -> NDArray[np.float32]:
        """Returns a copy of the last position's logits (n_vocab,), float32."""
        return self.decoder.logits()

    def _compute(self, work: Callable[[Any], Any], chunks: Sequence[RowChunk | TokenChunk]) -> None:
        future = self._thread.submit(work, chunks)
        try:
            future.result()
        finally:
            futures.wait([future])  # Ctrl-C does not free what is being computed with
