"""GET /metrics: the state of the server and its counters, in Prometheus' text format."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from edge_llava.device.memory import peak_rss_bytes
from edge_llava.runtime.engine.metrics import EngineMetrics
from edge_llava.server.http.memory_budget import MemoryBudget
from edge_llava.server.http.request_counts import RequestCounts

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_HELP = {
    "n_parallel": "Most answers that are computed at the same time.",
    "n_queued_max": "Most answers that may wait.",
    "running": "Answers that are computed now.",
    "queued": "Answers that wait now.",
    "answers_total": "Answers that were completed.",
    "cancelled_total": "Answers whose client disconnected, or that the server's shutdown cut off.",
    "failed_total": "Answers that ended with an error.",
    "refused_total": "Requests that found the queue full.",
    "prompt_tokens_total": "Positions of prompts, including those of images.",
    "cached_tokens_total": "Positions of prompts that were reused from the cache.",
    "tokens_total": "Tokens of answers.",
    "images_encoded_total": "Images that the vision tower encoded.",
    "steps_total": "Steps of the language model.",
    "decode_seconds_total": "Seconds spent in the language model.",
    "preempted_total": "Times that an answer was preempted because the KV cache was full.",
    "kept_conversations": "Conversations that are kept outside the KV cache.",
    "kept_bytes": "Memory that they take.",
    "kv_positions": "Positions in the KV cache.",
    "kv_positions_max": "Capacity of the KV cache in positions.",
}


def write_metrics(engine: EngineMetrics, counts: RequestCounts, budget: MemoryBudget) -> str:
    """Returns the text of the page."""
    return "\n".join(_lines(engine, counts, budget)) + "\n"


def _lines(engine: EngineMetrics, counts: RequestCounts, budget: MemoryBudget) -> Iterator[str]:
    for name, value in dataclasses.asdict(engine).items():
        kind = "counter" if name.endswith("_total") else "gauge"
        yield from _head(name, kind, _HELP.get(name, "A figure of the engine."))
        yield f"edge_llava_{name} {value}"
    yield from _head("requests_total", "counter", "Requests by path and status; status 0: the client disconnected.")
    for (route, status), n_requests in sorted(counts.by_status.items()):
        yield f'edge_llava_requests_total{{path="{route}",status="{status}"}} {n_requests}'
    for name, value, words in (
        ("requests_open", counts.n_open, "Requests that are read or answered now."),
        ("held_bytes", budget.n_held, "Memory for the bodies and images of open requests."),
        ("held_bytes_peak", budget.n_peak, "Largest value of held_bytes so far."),
        ("peak_resident_bytes", peak_rss_bytes(), "Largest resident size of the process so far."),
    ):
        yield from _head(name, "gauge", words)
        yield f"edge_llava_{name} {value}"
    for name, histogram, words in (
        ("first_text_seconds", counts.first_text_s, "Seconds from queueing a request to its first text."),
        ("chat_seconds", counts.whole_s, "Duration of chat requests that were answered."),
    ):
        yield from _head(name, "histogram", words)
        yield from histogram.lines(f"edge_llava_{name}")


def _head(name: str, kind: str, words: str) -> Iterator[str]:
    yield f"# HELP edge_llava_{name} {words}"
    yield f"# TYPE edge_llava_{name} {kind}"
