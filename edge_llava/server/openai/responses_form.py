"""Answers of OpenAI's Responses API: the whole response, and the events of a stream."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator

from edge_llava.server.http.limits import Limits
from edge_llava.server.openai.api_form import ApiForm, Json
from edge_llava.server.openai.generation import ParsedRequest, read_request
from edge_llava.server.openai.request_model import Rules
from edge_llava.server.openai.responses_request import ResponsesRequest

_ERROR_CODES = {"rate_limit_exceeded": "rate_limit_exceeded", "invalid_image": "invalid_image"}
_ECHOED = (
    "instructions", "max_output_tokens", "metadata", "parallel_tool_calls", "prompt_cache_key", "safety_identifier",
    "temperature", "top_p", "truncation", "user",
)  # fmt: skip


class ResponsesForm(ApiForm):
    """One request of /v1/responses, and its answer. No response is kept for later requests."""

    def __init__(self) -> None:
        super().__init__()
        self._id, self._item_id = f"resp_{uuid.uuid4().hex}", f"msg_{uuid.uuid4().hex}"
        self._created, self._n_events = int(time.time()), 0
        self._about: Json = {}

    def read(self, data: Json, rules: Rules, limits: Limits) -> ParsedRequest:
        """See `ApiForm`."""
        wanted = read_request(ResponsesRequest, data, rules, limits)
        self._about = {key: data.get(key) for key in _ECHOED}
        self._about["text"] = {"format": (data.get("text") or {}).get("format") or {"type": "text"}}
        return wanted

    def whole(self, completion: Json) -> Json:
        """See `ApiForm`."""
        (choice,) = completion["choices"]
        item = self._item(choice["message"]["content"], _status(choice["finish_reason"]))
        return self._response(completion["model"], [item], choice["finish_reason"], completion["usage"])

    async def events(self, batches: AsyncIterator[list[Json]]) -> AsyncGenerator[bytes, None]:
        """See `ApiForm`."""
        text, reason, model = "", "", ""
        async for chunks in batches:
            sent = b""
            for chunk in chunks:
                if "error" in chunk:
                    yield sent + self._failing(model, chunk["error"])
                    return
                model = chunk["model"]
                if not chunk["choices"]:
                    sent += self._closing(model, text, reason, chunk["usage"])
                    continue
                (choice,) = chunk["choices"]
                reason = choice["finish_reason"] or reason
                delta = choice["delta"].get("content")
                if "role" in choice["delta"]:
                    sent += self._opening(model)
                elif delta:
                    text += delta
                    sent += self._event("output_text.delta", self._where() | {"delta": delta, "logprobs": []})
            if sent:
                yield sent

    def _opening(self, model: str) -> bytes:
        started = {"response": self._response(model, [], None, None)}
        item, part = self._item(None, "in_progress"), {"part": _part("")}
        return (
            self._event("created", started)
            + self._event("in_progress", started)
            + self._event("output_item.added", {"output_index": 0, "item": item})
            + self._event("content_part.added", self._where() | part)
        )

    def _closing(self, model: str, text: str, reason: str, usage: Json) -> bytes:
        item = self._item(text, _status(reason))
        return (
            self._event("output_text.done", self._where() | {"text": text, "logprobs": []})
            + self._event("content_part.done", self._where() | {"part": _part(text)})
            + self._event("output_item.done", {"output_index": 0, "item": item})
            + self._event(_status(reason), {"response": self._response(model, [item], reason, usage)})
        )

    def _failing(self, model: str, error: Json) -> bytes:
        failed = {"code": _ERROR_CODES.get(error["code"], "server_error"), "message": error["message"]}
        response = self._response(model, [], None, None) | {"status": "failed", "error": failed}
        about = {"code": error["code"], "message": error["message"], "param": error["param"], "error": error}
        return self._event("error", about, prefix="") + self._event("failed", {"response": response})

    def _event(self, kind: str, about: Json, prefix: str = "response.") -> bytes:
        name = f"{prefix}{kind}"
        data = {"type": name, "sequence_number": self._n_events} | about
        self._n_events += 1
        return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()

    def _where(self) -> Json:
        return {"item_id": self._item_id, "output_index": 0, "content_index": 0}

    def _item(self, text: str | None, status: str) -> Json:
        """The only output item, a message; it has no parts before there is text."""
        content = [] if text is None else [_part(text)]
        return {"id": self._item_id, "type": "message", "status": status, "role": "assistant", "content": content}

    def _response(self, model: str, output: list[Json], reason: str | None, usage: Json | None) -> Json:
        incomplete = {"reason": "max_output_tokens"} if reason == "length" else None
        return self._about | {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "completed_at": int(time.time()) if reason == "stop" else None,
            "status": "in_progress" if reason is None else _status(reason),
            "background": False,
            "error": None,
            "incomplete_details": incomplete,
            "metadata": self._about["metadata"] or {},
            "model": model,
            "output": output,
            "parallel_tool_calls": bool(self._about["parallel_tool_calls"]),
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": False,
            "tool_choice": "auto",
            "tools": [],
            "truncation": self._about["truncation"] or "disabled",
            "usage": None if usage is None else _usage(usage),
        }


def _part(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _status(reason: str) -> str:
    return "incomplete" if reason == "length" else "completed"


def _usage(usage: Json) -> Json:
    cached = {"cached_tokens": usage["prompt_tokens_details"]["cached_tokens"], "cache_write_tokens": 0}
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": cached,
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage["total_tokens"],
    }
