"""The messages of a request: one model for each role."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, Tag, model_validator

from edge_llava.server.images.image_address import ImageAddress
from edge_llava.server.openai.content import MAX_PARTS, AnyContent, Content, TextContent, read_content
from edge_llava.server.openai.conversation import ChatMessage, Part, Role
from edge_llava.server.openai.faults import tag
from edge_llava.server.openai.fields import Idle, Ignored, NoEffect, Refused, Text, by_table, only, present
from edge_llava.server.openai.image_parts import StrayImages
from edge_llava.server.openai.request_model import FEW_FAULTS, RequestModel, at_most, faults_at

MAX_MESSAGES = 1024
_Item = TypeVar("_Item")
Messages = Annotated[list[Annotated[_Item, FEW_FAULTS]], Field(max_length=MAX_MESSAGES), at_most(MAX_MESSAGES)]
"""An array of messages. If there are too many, or too many are wrong, the rest is not checked."""
Images = Annotated[list[Text], Field(max_length=MAX_PARTS)]
_UserImages = Annotated[Any, Refused(message="'{place}' belong in messages of the user", code="unsupported_value")]


class BaseMessage(StrayImages):
    """The fields of messages of all roles."""

    name: Text | None = None
    """The author's name; the model does not see it."""
    annotations: Any = None
    refusal: Any = None
    prefix: Any = None
    """Mistral's flag for a last message to continue, which has no effect because it is always continued."""
    partial: Any = None
    """Moonshot's flag for the same."""
    tool_calls: Ignored = None
    function_call: Ignored = None
    thinking: Idle = None
    """Ollama's field for a model's reasoning."""
    tool_name: Idle = None
    tool_call_id: Idle = None

    def _read(
        self, role: Role, content: AnyContent | None, images: Sequence[ImageAddress], place: str
    ) -> ChatMessage | None:
        """The turn; None if the message is empty."""
        parts: list[Part] | None = None
        if content is None:
            parts = [] if images else None
        elif content or not (self.tool_calls or self.function_call):
            parts = read_content(content, f"{place}.content")
        return None if parts is None else ChatMessage(role, (*images, *parts))


class UserTurn(BaseMessage):
    """A question, with images."""

    role: Literal["user"]
    content: Content | None = None
    images: Images | None = None
    """Ollama's form: base64, before the content."""

    def turn(self, place: str) -> ChatMessage | None:
        """The message as a turn of the conversation; None if it is empty."""
        images = [
            ImageAddress(text, f"{place}.images[{n}]", may_fetch=False) for n, text in enumerate(self.images or ())
        ]
        return self._read("user", self.content, images, place)


class UserMessage(UserTurn):
    """A question, with images. Content is required unless it has images."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                *present("content"),
                {"required": ["images"], "properties": {"images": {"type": "array", "minItems": 1}}},
            ]
        }
    )

    @model_validator(mode="after")
    def _check_content(self) -> UserMessage:
        if self.content is None and not self.images:
            kind = "string_type" if "content" in self.model_fields_set else "missing"
            raise faults_at({"content": kind})
        return self


class OtherTurn(BaseMessage):
    """A system message, or an answer; an answer that is the last message is continued."""

    role: Literal["system", "developer", "assistant"]
    content: TextContent | None = None
    images: _UserImages = None

    def turn(self, place: str) -> ChatMessage | None:
        """The message as a turn of the conversation; None if it is empty."""
        return self._read("assistant" if self.role == "assistant" else "system", self.content, (), place)


class ToolMessage(RequestModel):
    """A tool's result for another model, which is left out of the history."""

    role: Annotated[
        Literal["tool", "function"],
        NoEffect(message="'{place}' of tools is not supported", code="unsupported_value"),
    ]

    def turn(self, place: str) -> ChatMessage | None:
        """The message as a turn of the conversation; None if it is empty."""
        return None


ROLES = by_table(
    "role",
    {"user": "user", **dict.fromkeys(("system", "developer", "assistant"), "text"), "tool": "tool", "function": "tool"},
)
Message = Annotated[
    Annotated[UserMessage, Tag(tag("user"))]
    | Annotated[OtherTurn, Tag(tag("text"))]
    | Annotated[ToolMessage, only("role"), Tag(tag("tool"))],
    ROLES,
]
AnyMessage = UserTurn | OtherTurn | ToolMessage


def read_messages(messages: Sequence[object], place: str) -> list[ChatMessage]:
    """The turns of the messages that are not empty.

    Args:
        messages: The messages of a request; items of other kinds count as empty.
        place: Their place in the request.
    """
    turns = [message.turn(f"{place}[{n}]") for n, message in enumerate(messages) if isinstance(message, AnyMessage)]
    return [turn for turn in turns if turn is not None]
