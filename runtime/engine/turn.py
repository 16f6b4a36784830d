"""One question on its way to its answer, and where the time went."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from edge_llava.device.memory import peak_rss_bytes
from edge_llava.runtime.answer import Timings
from edge_llava.runtime.dialogue.past_turns import PastTurn, list_runs
from edge_llava.runtime.runs import Run


@dataclass
class Turn:
    """One question on its way: what the plan found, and what answering it measured.

    Attributes:
        question: The user's text.
        runs: Its tokens and images.
        past: The turns before it, without those that are dropped for it.
        started: When it was asked.
    """

    question: str
    runs: list[Run]
    past: list[PastTurn]
    started: float
    vision_s: float = 0.0
    projector_s: float = 0.0
    prefill_tokens: int = 0
    prefill_s: float = 0.0
    ttft_s: float = 0.0
    decode_tokens: int = 0
    decode_s: float = 0.0
    cached_tokens: int = 0

    @property
    def conversation(self) -> list[Run]:
        """Everything up to where the model writes."""
        return list_runs(self.past) + self.runs

    @contextmanager
    def prefilling(self) -> Iterator[None]:
        """Adds the time inside to `prefill_s`."""
        started = time.perf_counter()
        yield
        self.prefill_s += time.perf_counter() - started

    def measure(self, load_s: float) -> Timings:
        """Where the time went."""
        return Timings(
            load_s=load_s,
            vision_s=self.vision_s,
            projector_s=self.projector_s,
            prefill_tokens=self.prefill_tokens,
            prefill_s=self.prefill_s,
            ttft_s=self.ttft_s,
            decode_tokens=self.decode_tokens,
            decode_s=self.decode_s,
            cached_tokens=self.cached_tokens,
            peak_rss_bytes=peak_rss_bytes(),
        )
