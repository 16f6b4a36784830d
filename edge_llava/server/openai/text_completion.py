"""Answers of OpenAI's completions API."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from edge_llava.server.http.event_stream import DONE, event
from edge_llava.server.http.limits import Limits
from edge_llava.server.openai.api_form import ApiForm, Json
from edge_llava.server.openai.generation import ParsedRequest, read_request
from edge_llava.server.openai.request_model import Rules
from edge_llava.server.openai.text_request import TextRequest


class TextCompletionForm(ApiForm):
    """One request of /v1/completions, and its answer."""

    def __init__(self) -> None:
        super().__init__()
        self._n_chars = 0  # length of the text whose tokens were listed

    def read(self, data: Json, rules: Rules, limits: Limits) -> ParsedRequest:
        """See `ApiForm`."""
        return read_request(TextRequest, data, rules, limits)

    def whole(self, completion: Json) -> Json:
        """See `ApiForm`."""
        (choice,) = completion["choices"]
        text = self._choice(choice["message"]["content"], choice)
        return _renamed(completion) | {"choices": [text]}

    async def events(self, batches: AsyncIterator[list[Json]]) -> AsyncGenerator[bytes, None]:
        """See `ApiForm`."""
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
        """Translates entries of the chat API to the columns of this API."""
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
    """Log probabilities by text; the largest one if tokens, which are sorted, have the same text."""
    return {token["token"]: token["logprob"] for token in reversed(tokens)}


def _renamed(completion: Json) -> Json:
    id = completion["id"].replace("chatcmpl-", "cmpl-", 1)
    return completion | {"id": id, "object": "text_completion"}
