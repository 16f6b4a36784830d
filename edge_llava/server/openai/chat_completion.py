"""An answer in OpenAI's form: the whole completion, and the chunks of a stream."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

from edge_llava.runtime.answer import FinishReason
from edge_llava.runtime.engine.answer import Answer

_TIMINGS = ("queued_s", "vision_s", "projector_s", "prefill_s", "ttft_s", "decode_s")
Logprobs = Sequence[dict[str, Any]] | None
"""Entries of `AnswerLogprobs`; None if they were not requested."""


class ChatCompletion:
    """The objects that are sent for one answer; all have the same id."""

    def __init__(self, model: str, answer: Answer) -> None:
        self._id, self._created, self._model = f"chatcmpl-{uuid.uuid4().hex}", int(time.time()), model
        self._answer = answer

    def whole(self, text: str, finish_reason: FinishReason | None, logprobs: Logprobs = None) -> dict[str, Any]:
        """The whole completion."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": _wrap(logprobs), "finish_reason": finish_reason}
        return self._frame("chat.completion", [choice]) | {
            "usage": usage(self._answer),
            "timings": timings(self._answer),
        }

    def opening(self) -> dict[str, Any]:
        """The first chunk, which contains the role."""
        return self._chunk({"role": "assistant", "content": "", "refusal": None})

    def piece(self, text: str, logprobs: Logprobs = None) -> dict[str, Any]:
        """A chunk with a part of the text."""
        return self._chunk({"content": text}, logprobs=logprobs)

    def closing(self, finish_reason: FinishReason | None) -> dict[str, Any]:
        """The last chunk of the text, with the finish reason and timings."""
        return self._chunk({}, finish_reason) | {"timings": timings(self._answer)}

    def counts(self) -> dict[str, Any]:
        """The chunk after it, if usage was requested."""
        return self._frame("chat.completion.chunk", []) | {"usage": usage(self._answer)}

    def _chunk(
        self, delta: dict[str, Any], finish_reason: str | None = None, *, logprobs: Logprobs = None
    ) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": _wrap(logprobs), "finish_reason": finish_reason}
        return self._frame("chat.completion.chunk", [choice])

    def _frame(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model, "choices": choices}


def _wrap(logprobs: Logprobs) -> dict[str, Any] | None:
    return None if logprobs is None else {"content": [*logprobs], "refusal": None}


def usage(answer: Answer) -> dict[str, Any]:
    """Counts the positions of the prompt, including those of images, and the tokens of the answer."""
    return {
        "prompt_tokens": answer.n_prompt_tokens,
        "completion_tokens": answer.n_tokens,
        "total_tokens": answer.n_prompt_tokens + answer.n_tokens,
        "prompt_tokens_details": {
            "cached_tokens": answer.n_cached_tokens or 0,
            "image_tokens": answer.n_image_tokens,
        },
    }


def timings(answer: Answer) -> dict[str, float]:
    """The timings of an answer in seconds, rounded to microseconds."""
    spent = answer.timings()
    return {name: round(getattr(spent, name), 6) for name in _TIMINGS}
