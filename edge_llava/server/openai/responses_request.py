"""Requests of OpenAI's Responses API.

Source: https://platform.openai.com/docs/api-reference/responses/create
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, Tag

from edge_llava.server.openai.conversation import ChatMessage
from edge_llava.server.openai.faults import tag
from edge_llava.server.openai.fields import Idle, NoEffect, Refused, Text, by_kind, by_word, only
from edge_llava.server.openai.generation import GenerationRequest
from edge_llava.server.openai.messages import Message, Messages, read_messages
from edge_llava.server.openai.request_model import RequestModel
from edge_llava.server.openai.response_format import FormatType, JsonSchema, PlainFormat
from edge_llava.server.openai.sampling import TokenLimit

_IDLE_FIELDS = ("id", "type", "status", "phase")
_IDLE_PART_FIELDS = ("annotations", "logprobs")
# reasoning and calls of other models, which are left out of the history, as in the chat API
_PASSED = re.compile(r"reasoning|compaction|mcp_\w{1,60}|\w{1,60}_call(_output)?", re.ASCII)
_STATE = "'{place}' is not supported: no response is kept"
_Conversation = Annotated[Any, Refused(message=f"{_STATE}. Send the whole conversation as 'input'")]


class PassedItem(RequestModel):
    """Another model's reasoning or call, which is left out of the history."""

    type: Annotated[str, Field(pattern=f"^({_PASSED.pattern})$"), NoEffect(refuse=False)]


def _without_idle(item: Any) -> Any:
    """Converts a message to the chat API's form."""
    if not isinstance(item, dict):
        return item
    kept = {name: value for name, value in item.items() if name not in _IDLE_FIELDS}
    if isinstance(kept.get("content"), list):
        kept["content"] = [
            {name: value for name, value in part.items() if name not in _IDLE_PART_FIELDS}
            if isinstance(part, dict)
            else part
            for part in kept["content"]
        ]
    return kept


def _find_tag(item: Any) -> str | None:
    kind = item.get("type") if isinstance(item, dict) else None
    if kind is None or kind == "message":
        return tag("message")
    return tag("passed") if isinstance(kind, str) and _PASSED.fullmatch(kind) else None


_MESSAGE_TYPE: dict[str, Any] = {"properties": {"type": {"enum": [None, "message"]}}}
_Item = Annotated[
    Annotated[Message, BeforeValidator(_without_idle), Field(json_schema_extra=_MESSAGE_TYPE), Tag(tag("message"))]
    | Annotated[PassedItem, only("type"), Tag(tag("passed"))],
    by_word("type", _find_tag, f"{_STATE}, and this model does not support tools; send messages", "unsupported_value"),
]


class NamedSchema(JsonSchema):
    """JSON that follows a schema."""

    type: Literal["json_schema"]


_Format = Annotated[Annotated[PlainFormat, Tag(tag("plain"))] | Annotated[NamedSchema, Tag(tag("schema"))], FormatType]


class ResponseText(RequestModel):
    """The format of a response's text."""

    format: _Format | None = None
    verbosity: Idle = None


class ResponsesRequest(GenerationRequest):
    """A conversation to answer. No response is kept for later requests."""

    _place: ClassVar[str] = "input"
    _is_counted: ClassVar[bool] = True

    input: Annotated[
        Annotated[Text, Tag(tag("string"))] | Annotated[Messages[_Item], Field(min_length=1), Tag(tag("array"))],
        by_kind("a string or an array of items"),
    ]
    instructions: Text | None = None
    """Used as the first system message."""
    text: ResponseText | None = None
    max_output_tokens: TokenLimit | None = None

    # state that OpenAI's service keeps, but this server does not
    previous_response_id: _Conversation = None
    conversation: _Conversation = None
    prompt: _Conversation = None
    background: Annotated[Any, Refused((False,), _STATE)] = None
    top_logprobs: Annotated[Any, Refused((0,), "'{place}' is not supported here; /v1/chat/completions has it")] = None

    include: Idle = None
    reasoning: Idle = None
    max_tool_calls: Idle = None
    context_management: Idle = None
    prompt_cache_options: Idle = None

    def _turns(self) -> list[ChatMessage]:
        instructions = [ChatMessage("system", (self.instructions,))] if self.instructions else []
        if isinstance(self.input, str):
            return [*instructions, ChatMessage("user", (self.input,) if self.input else ())]
        return [*instructions, *read_messages(self.input, self._place)]

    def _token_limits(self) -> tuple[int | None, ...]:
        return self.max_output_tokens, *super()._token_limits()

    def _answer_format(self) -> tuple[PlainFormat | JsonSchema | None, str]:
        if self.text is not None and self.text.format is not None:
            return self.text.format, "text.format.schema"
        return super()._answer_format()
