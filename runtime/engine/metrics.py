"""What an engine is doing and has done, for a page of metrics."""

from __future__ import annotations

from dataclasses import dataclass

from edge_llava.runtime.answer import FinishReason


@dataclass
class EngineMetrics:
    """An engine at one moment. What counts up never goes down.

    Attributes:
        n_parallel, n_queued_max: What it was made with; None: any number may wait.
        running, queued: Answers that have a place; that wait for one.
        answers_total, cancelled_total, failed_total: Answers that were completed; were cancelled; ended with an error.
        refused_total: Answers that found the queue full.
        prompt_tokens_total, cached_tokens_total: Positions of prompts; those among them that were computed before.
        tokens_total: Tokens of answers.
        images_encoded_total: Images that went through the tower.
        steps_total, decode_seconds_total: Steps of the language model; seconds in it.
        preempted_total: Times that an answer lost its place in a full KV cache, and was computed again.
        kv_positions, kv_positions_max: Positions in the KV cache, shared ones once; what it can hold.
        kept_conversations, kept_bytes: Conversations that are remembered outside it, and the memory that they take.
    """

    n_parallel: int
    n_queued_max: int | None
    running: int = 0
    queued: int = 0
    answers_total: int = 0
    cancelled_total: int = 0
    failed_total: int = 0
    refused_total: int = 0
    prompt_tokens_total: int = 0
    cached_tokens_total: int = 0
    tokens_total: int = 0
    images_encoded_total: int = 0
    steps_total: int = 0
    decode_seconds_total: float = 0.0
    preempted_total: int = 0
    kv_positions: int = 0
    kv_positions_max: int = 0
    kept_conversations: int = 0
    kept_bytes: int = 0

    def count_end(self, reason: FinishReason) -> None:
        """An answer is over."""
        if reason == "cancelled":
            self.cancelled_total += 1
        elif reason == "error":
            self.failed_total += 1
        else:
            self.answers_total += 1
