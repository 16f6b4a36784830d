"""Requests of OpenAI's chat API.

Source: https://platform.openai.com/docs/api-reference/chat/create
"""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict

from edge_llava.server.openai.conversation import ChatMessage
from edge_llava.server.openai.generation import TOOLS_SCHEMA, GenerationRequest
from edge_llava.server.openai.messages import Message, Messages, read_messages
from edge_llava.server.openai.sampling import Logprobs, TokenLimit

# a PNG of one pixel
_DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
_EXAMPLE: JsonDict = {
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is on the table?"},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_DOT}"}},
            ],
        }
    ]
}


class LimitedRequest(GenerationRequest):
    """A request of OpenAI's older APIs, with their limits of tokens."""

    max_tokens: TokenLimit | None = None
    max_completion_tokens: TokenLimit | None = None

    def _token_limits(self) -> tuple[int | None, ...]:
        return self.max_tokens, self.max_completion_tokens, *super()._token_limits()


class ChatRequest(LimitedRequest, Logprobs):
    """A conversation to answer, with images in messages of the user."""

    model_config = ConfigDict(json_schema_extra=TOOLS_SCHEMA | {"examples": [_EXAMPLE]})

    messages: Annotated[Messages[Message], Field(min_length=1)]

    def _turns(self) -> list[ChatMessage]:
        return read_messages(self.messages, self._place)
