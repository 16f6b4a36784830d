"""What a batch engine is doing and has done, for a page of metrics."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineMetrics:
    """A batch engine at one moment. What counts up never goes down.

    Attributes:
        n_parallel, n_queued_max: What it was made with.
        running, queued: Answers that have a place; that wait for one.
        answers_total, cancelled_total, failed_total: Answers that came to their end; were left; ended with an error.
        refused_total: Answers that found the queue full.
        prompt_tokens_total, cached_tokens_total: Positions of prompts; those among them that were computed before.
        tokens_total: Tokens of answers.
        pictures_encoded_total: Pictures that went through the tower.
        steps_total, decode_seconds_total: Steps of the language model; seconds in it.
        gave_way_total: Times that an answer lost its place in a full KV cache, and was computed again.
        kv_positions, kv_positions_max: Positions in the KV cache, shared ones once; what it can hold.
        kept_conversations, kept_bytes: Conversations that are remembered outside it, and the memory that they take.
    """

    n_parallel: int
    n_queued_max: int
    running: int
    queued: int
    answers_total: int
    cancelled_total: int
    failed_total: int
    refused_total: int
    prompt_tokens_total: int
    cached_tokens_total: int
    tokens_total: int
    pictures_encoded_total: int
    steps_total: int
    decode_seconds_total: float
    gave_way_total: int
    kv_positions: int
    kv_positions_max: int
    kept_conversations: int
    kept_bytes: int
