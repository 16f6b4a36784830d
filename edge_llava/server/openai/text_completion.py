"""OpenAI's completions API: a text is continued as it is, without the conversation template and without images."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

from edge_llava.server.http.event_stream import DONE, event
from edge_llava.server.openai.api_form import ApiForm
from edge_llava.server.openai.chat_sampling import MAX_TOKENS_FIELDS, MAX_TOP_LOGPROBS
from edge_llava.server.openai.errors import Faults
from edge_llava.server.openai.request_fields import RequestFields
from edge_llava.server.openai.translation import Json, Translation

_N_TOKENS = 16  # OpenAI's default: a text without a template need not come to an end
_MOVED = ("prompt", "echo", "suffix", "best_of", "logprobs", "max_tokens")


def translate_completion(data: Json) -> Translation:
    """A body of /v1/completions.

    Raises:
        RequestFault: If it asks for what this server cannot do; all faults at once.
    """
    faults, made = Faults(), Translation(is_raw=True)
    fields = RequestFields(data, "", faults)
    prompt = _read_prompt(fields)
    made.chat["messages"] = [{"role": "user", "content": prompt}]
    made.places |= {"messages": "prompt", "messages[0].content": "prompt"}
    is_limited = any(data.get(key) is not None for key in MAX_TOKENS_FIELDS)
    made.chat["max_tokens"] = data.get("max_tokens") if is_limited else _N_TOKENS
    if fields.boolean("echo"):
        fields.note("echo", "is not supported: only the continuation is returned", "unsupported_parameter")
    if fields.text("suffix"):
        fields.note("suffix", "is not supported: this model does not support insert", "unsupported_parameter")
    if (fields.integer("best_of", 0, 20) or 1) > 1:
        fields.note("best_of", "must be 1: one answer is made per request", "unsupported_value")
    n_likeliest = fields.integer("logprobs", 0, MAX_TOP_LOGPROBS)
    if n_likeliest is not None:
        made.chat |= {"logprobs": True, "top_logprobs": n_likeliest}
    for key, value in data.items():
        if key not in _MOVED:
            made.hand_on(key, key, value)
    faults.check()
    return made


def _read_prompt(fields: RequestFields) -> str:
    if not fields.require("prompt"):
        return ""
    prompt: Any = fields.raw("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        (prompt,) = prompt
    if isinstance(prompt, str):
        return prompt
    fields.note("prompt", "must be one text: a string, or an array of one string", "invalid_type")
    return ""


class TextCompletionForm(ApiForm):
    """One request of /v1/completions, and its answer."""

    def __init__(self) -> None:
        super().__init__()
        self._n_chars = 0  # of the text whose tokens were listed

    def read(self, data: Json) -> Json:
        """As of `ApiForm`."""
        made = translate_completion(data)
        self.places, self.ignored, self.is_raw = made.places, made.ignored, made.is_raw
        return made.chat

    def whole(self, completion: Json) -> Json:
        """As of `ApiForm`."""
        (choice,) = completion["choices"]
        text = self._choice(choice["message"]["content"], choice)
        return _renamed(completion) | {"choices": [text]}

    async def events(self, batches: AsyncIterator[list[Json]]) -> AsyncGenerator[bytes, None]:
        """As of `ApiForm`."""
        async for chunks in batches:
            if "error" in chunks[-1]:
                yield b"".join(map(event, chunks))
                return
            sent = [self._translate(chunk) for chunk in chunks if not _is_opening(chunk)]
            if sent:
                yield b"".join(map(event, sent))
        yield DONE

    def _translate(self, chunk: Json) -> Json:
        choices = [self._choice(choice["delta"].get("content") or "", choice) for choice in chunk["choices"]]
        return _renamed(chunk) | {"choices": choices}

    def _choice(self, text: str, choice: Json) -> Json:
        logprobs = None if choice["logprobs"] is None else self._list_tokens(choice["logprobs"]["content"])
        return {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": choice["finish_reason"]}

    def _list_tokens(self, entries: Sequence[Json]) -> Json:
        """Entries of the chat API as the columns that this API has."""
        offsets = []
        for entry in entries:
            offsets.append(self._n_chars)
            self._n_chars += len(entry["token"])
        return {
            "tokens": [entry["token"] for entry in entries],
            "token_logprobs": [entry["logprob"] for entry in entries],
            "top_logprobs": [_tabulate(entry["top_logprobs"]) for entry in entries],
            "text_offset": offsets,
        }


def _is_opening(chunk: Json) -> bool:
    return any("role" in choice["delta"] for choice in chunk["choices"])


def _tabulate(tokens: Sequence[Json]) -> dict[str, float]:
    """Log probabilities by text; of tokens with the same text, which come in order, the largest."""
    return {token["token"]: token["logprob"] for token in reversed(tokens)}


def _renamed(completion: Json) -> Json:
    id = completion["id"].replace("chatcmpl-", "cmpl-", 1)
    return completion | {"id": id, "object": "text_completion"}
