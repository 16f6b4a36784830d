"""Answers of Ollama's API: /api/chat and /api/generate, at once or as lines of JSON."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from datetime import datetime, timezone

from edge_llava.server.ollama.request import name_fault, translate_chat, translate_generate
from edge_llava.server.openai.api_form import ApiForm
from edge_llava.server.openai.errors import RequestFault
from edge_llava.server.openai.served_models import ServedModels
from edge_llava.server.openai.translation import Json

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
        """Of /api/chat."""
        return cls(models, is_chat=True)

    @classmethod
    def generate(cls, models: ServedModels) -> OllamaForm:
        """Of /api/generate."""
        return cls(models, is_chat=False)

    def read(self, data: Json) -> Json | None:
        """As of `ApiForm`. Without a question, a client wants the model to be loaded, or unloaded: it stays."""
        model = self._check_model(data)
        asked = ("messages",) if self._is_chat else ("prompt", "images", "suffix")
        if not any(data.get(key) for key in asked):
            self.reply = self._object("") | {"done": True, "done_reason": "load"}
            return None
        made = (translate_chat if self._is_chat else translate_generate)(data)
        self.places, self.ignored, self.is_raw = made.places, made.ignored, made.is_raw
        return made.chat | {"model": model}

    def whole(self, completion: Json) -> Json:
        """As of `ApiForm`."""
        (choice,) = completion["choices"]
        text = self._object(choice["message"]["content"], choice["logprobs"])
        return text | _ending(choice["finish_reason"], completion["timings"], completion["usage"])

    async def events(self, batches: AsyncIterator[list[Json]]) -> AsyncGenerator[bytes, None]:
        """As of `ApiForm`."""
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

    def _check_model(self, data: Json) -> str | None:
        """The name of the model that is asked for, as the chat API knows it; the answer says it as it was asked."""
        name = data.get("model", data.get("name"))
        if name is not None and not isinstance(name, str):
            raise RequestFault(400, "'model' must be a string.", code="invalid_type", param="model")
        if not name:
            return None
        found = resolve(self._models.check, name)
        self._model = name
        return found

    def _line(self, text: str, logprobs: Json | None = None) -> bytes:
        return _encode(self._object(text, logprobs))

    def _object(self, text: str, logprobs: Json | None = None) -> Json:
        written = {"message": {"role": "assistant", "content": text}} if self._is_chat else {"response": text}
        about = {"logprobs": logprobs["content"]} if logprobs else {}
        return {"model": self._model, "created_at": time_stamp()} | written | about | {"done": False}


def resolve(check: Callable[[str], None], name: str) -> str:
    """A name of Ollama's as the server's: what has no tag may be called "NAME:latest".

    Args:
        check: Raises a RequestFault for a name that is not served.
        name: What was asked for.

    Raises:
        RequestFault: 404, in Ollama's words.
    """
    for candidate in (name, name.removesuffix(":latest")):
        try:
            check(candidate)
            return candidate
        except RequestFault:
            continue
    raise name_fault(name)


def time_stamp(at: datetime | None = None) -> str:
    """RFC 3339, in UTC; now by default."""
    return (at or datetime.now(timezone.utc)).isoformat().replace("+00:00", "Z")


def _ending(finish_reason: str, timings: Json, usage: Json) -> Json:
    """What the last object says. Durations are in nanoseconds, and never 0: clients divide by them."""
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
