"""Answers of Ollama's API: /api/chat and /api/generate, at once or as lines of JSON."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import replace
from datetime import datetime, timezone

from edge_llava.server.http.errors import RequestError
from edge_llava.server.http.limits import Limits
from edge_llava.server.ollama.request import OllamaChatRequest, OllamaGenerateRequest
from edge_llava.server.openai.api_form import ApiForm, Json
from edge_llava.server.openai.generation import ParsedRequest
from edge_llava.server.openai.request_model import Rules, parse
from edge_llava.server.openai.served_models import ServedModels

_NS = 1_000_000_000


class OllamaForm(ApiForm):
    """One request of /api/chat or /api/generate, and its answer."""

    media_type = "application/x-ndjson"
    takes_any_type = True  # Ollama's own examples do not say that they send JSON

    def __init__(self, models: ServedModels, *, is_chat: bool) -> None:
        super().__init__()
        self._models, self._is_chat = models, is_chat
        self._model = models.name
        self.beat = self._line("")

    @classmethod
    def chat(cls, models: ServedModels) -> OllamaForm:
        """Returns the form of /api/chat."""
        return cls(models, is_chat=True)

    @classmethod
    def generate(cls, models: ServedModels) -> OllamaForm:
        """Returns the form of /api/generate."""
        return cls(models, is_chat=False)

    def read(self, data: Json, rules: Rules, limits: Limits) -> ParsedRequest | None:
        """See `ApiForm`. A request without a question asks to load or unload the model, which stays loaded."""
        asked = parse(OllamaChatRequest if self._is_chat else OllamaGenerateRequest, data, rules)
        name = asked.model if asked.model is not None else asked.name
        model = resolve(self._models.check, name) if name else None
        self._model = name or self._model  # the answer contains the name that was requested
        if not (data.get("messages") if self._is_chat else data.get("prompt") or data.get("images")):
            self.reply = self._object("") | {"done": True, "done_reason": "load"}
            return None
        return replace(asked.read(rules, limits), model=model)

    def whole(self, completion: Json) -> Json:
        """See `ApiForm`."""
        (choice,) = completion["choices"]
        text = self._object(choice["message"]["content"], choice["logprobs"])
        return text | _ending(choice["finish_reason"], completion["timings"], completion["usage"])

    async def events(self, batches: AsyncIterator[list[Json]]) -> AsyncGenerator[bytes, None]:
        """See `ApiForm`."""
        closing: Json = {}
        async for chunks in batches:
            lines = []
            for chunk in chunks:
                if "error" in chunk:
                    lines.append(_encode({"error": chunk["error"]["message"]}))
                elif not chunk["choices"]:
                    ending = _ending(closing["choices"][0]["finish_reason"], closing["timings"], chunk["usage"])
                    lines.append(_encode(self._object("") | ending))
                elif chunk["choices"][0]["finish_reason"] is not None:
                    closing = chunk
                else:
                    (choice,) = chunk["choices"]
                    text, logprobs = choice["delta"].get("content"), choice["logprobs"]
                    if text or logprobs:
                        lines.append(self._line(text, logprobs))
            if lines:
                yield b"".join(lines)

    def _line(self, text: str, logprobs: Json | None = None) -> bytes:
        return _encode(self._object(text, logprobs))

    def _object(self, text: str, logprobs: Json | None = None) -> Json:
        written = {"message": {"role": "assistant", "content": text}} if self._is_chat else {"response": text}
        about = {"logprobs": logprobs["content"]} if logprobs else {}
        return {"model": self._model, "created_at": time_stamp()} | written | about | {"done": False}


def resolve(check: Callable[[str], None], name: str) -> str:
    """Translates a name of Ollama's to one of the server's: "NAME:latest" is also the name without a tag.

    Args:
        check: Raises a RequestError for a name that is not served.
        name: The requested name.

    Raises:
        RequestError: 404, with Ollama's message.
    """
    for candidate in (name, name.removesuffix(":latest")):
        try:
            check(candidate)
            return candidate
        except RequestError:
            continue
    raise RequestError(404, f"model '{name[:100]}' not found", code="model_not_found", param="model")


def time_stamp(at: datetime | None = None) -> str:
    """Formats a time, by default now, as RFC 3339 in UTC."""
    return (at or datetime.now(timezone.utc)).isoformat().replace("+00:00", "Z")


def _ending(finish_reason: str, timings: Json, usage: Json) -> Json:
    """The fields of the last object. Durations are in nanoseconds, and never 0 because clients divide by them."""
    queued, prefill, decode = (max(1, round(timings[key] * _NS)) for key in ("queued_s", "prefill_s", "decode_s"))
    return {
        "done": True,
        "done_reason": finish_reason,
        "total_duration": queued + prefill + decode,
        "load_duration": queued,
        "prompt_eval_count": usage["prompt_tokens"],
        "prompt_eval_duration": prefill,
        "eval_count": usage["completion_tokens"],
        "eval_duration": decode,
    }


def _encode(data: Json) -> bytes:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
