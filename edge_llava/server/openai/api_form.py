"""The form of an API's requests and answers. The others translate to and from OpenAI's chat API."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from edge_llava.server.http.event_stream import BEAT, DONE, event
from edge_llava.server.http.limits import Limits
from edge_llava.server.openai.chat_request import ChatRequest
from edge_llava.server.openai.generation import ParsedRequest, read_request
from edge_llava.server.openai.request_model import Rules

Json = dict[str, Any]


class ApiForm:
    """One request, and its answer.

    Attributes:
        media_type: The media type of a streamed answer.
        beat: The keep-alive message of a stream; clients ignore it.
        takes_any_type: Whether programs, but not web pages, may omit 'Content-Type: application/json'.
        reply: The answer to a request that the model need not answer; None otherwise.
    """

    media_type = "text/event-stream"
    beat = BEAT
    takes_any_type = False

    def __init__(self) -> None:
        self.reply: Json | None = None

    def read(self, data: Json, rules: Rules, limits: Limits) -> ParsedRequest | None:
        """Parses a request; returns None if `reply` answers it.

        Raises:
            RequestError: If the request is wrong, or is not supported.
        """
        return read_request(ChatRequest, data, rules, limits)

    def whole(self, completion: Json) -> Json:
        """Translates a chat completion to this API's answer."""
        return completion

    async def events(self, batches: AsyncIterator[list[Json]]) -> AsyncGenerator[bytes, None]:
        """Translates chunks of a chat completion to this API's stream.

        Args:
            batches: Chunks that arrived at the same time. If the answer fails, the last one is an error object.
        """
        async for chunks in batches:
            yield b"".join(map(event, chunks))
            if "error" in chunks[-1]:
                return
        yield DONE
