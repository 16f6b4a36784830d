"""The messages of a chat request: roles, texts, and images as clients send them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, zip_longest
from typing import Any, Literal

from edge_llava.server.http.limits import Limits
from edge_llava.server.images.image_forms import (
    IMAGE_PARTS,
    ImageAddress,
    read_image_list,
    read_image_part,
    refuse_stray_images,
)
from edge_llava.server.openai.request_fields import RequestFields, kind_of

Role = Literal["system", "user", "assistant"]
Part = str | ImageAddress
_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_TOOL_ROLES = ("tool", "function")
# "prefix" and "partial": Mistral's and Moonshot's words for a last message that is to be continued, which it is anyway
_MESSAGE_FIELDS = (
    "role", "content", "name", "refusal", "annotations", "images", "tool_calls", "function_call", "prefix", "partial",
)  # fmt: skip
_TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
# what other models have thought and called: the history is read without it
_PASSED_PARTS = ("thinking", "redacted_thinking", "reasoning", "tool_use", "tool_result", "tool_call", "function_call")


@dataclass(frozen=True)
class ChatMessage:
    """One turn: its texts and images, in order.

    Attributes:
        role: Who says it.
        parts: Texts that are not empty, and images.
    """

    role: Role
    parts: tuple[Part, ...]

    @property
    def images(self) -> tuple[ImageAddress, ...]:
        """Its images."""
        return tuple(part for part in self.parts if isinstance(part, ImageAddress))

    @property
    def text(self) -> str:
        """Its texts, each on its own line."""
        return self._lay_out()[0]

    @property
    def places(self) -> tuple[int, ...]:
        """As `runtime.batch.messages.Message.places`: images keep their places where text stands between them."""
        return self._lay_out()[1]

    def _lay_out(self) -> tuple[str, tuple[int, ...]]:
        if not self._is_mixed():
            return "\n".join(part for part in self.parts if isinstance(part, str)), ()
        text, places = "", []
        for part, following in zip_longest(self.parts, self.parts[1:]):
            if isinstance(part, str):
                text += part if following is None else f"{part}\n"
            else:
                places.append(len(text))
        return text, tuple(places)

    def _is_mixed(self) -> bool:
        at = [index for index, part in enumerate(self.parts) if isinstance(part, ImageAddress)]
        between = self.parts[at[0] : at[-1]] if at else ()
        return any(isinstance(part, str) and not part.isspace() for part in between)


def read_messages(request: RequestFields, limits: Limits) -> tuple[ChatMessage, ...]:
    """The conversation: a system message or none, then user and assistant in turn.

    Neighbours of one role are joined, and system messages, wherever they stand, into the first message. A greeting of
    the assistant may come first, and what the assistant is to continue last. Where there are only system messages, the
    last one is the question. What is wrong is noted in the request's faults.
    """
    if not request.require("messages"):
        return ()
    found = []
    for item in request.objects("messages", limits.n_messages):
        message = _read_message(item, limits)
        if message is not None:
            found.append(message)
    n_chars = sum(len(part) for message in found for part in message.parts if isinstance(part, str))
    n_images = sum(len(message.images) for message in found)
    if n_chars > limits.text_chars:
        request.note("messages", f"hold {n_chars} characters; the limit is {limits.text_chars}", "string_too_long")
    if n_images > limits.n_images:
        request.note("messages", f"hold {n_images} pictures; the limit is {limits.n_images}", "too_many_images")
    if found and all(message.role == "system" for message in found):
        found[-1] = ChatMessage("user", found[-1].parts)
    if not request.faults.found and not any(message.role == "user" for message in found):
        request.note("messages", "must contain a message of the user")
    return _join_neighbours([message for message in found if message.role == "system"]) + _join_neighbours(
        [message for message in found if message.role != "system"]
    )


def _read_message(item: RequestFields, limits: Limits) -> ChatMessage | None:
    if item.raw("role") in _TOOL_ROLES:
        item.ignore("role", "of tools is not supported", "unsupported_value")
        return None
    refuse_stray_images(item)
    item.ignore_unknown(_MESSAGE_FIELDS)
    for key in ("tool_calls", "function_call"):
        if item.has(key) and item.raw(key) != []:
            item.ignore(key)
    item.text("name")  # OpenAI's label of a speaker: taken, and not shown to the model
    name = item.text("role", tuple(_ROLES)) if item.require("role") else None
    if name is None:
        return None
    role, images = _ROLES[name], read_image_list(item, limits.n_parts)
    parts = _read_content(item, role, limits)
    if images and role != "user":
        item.note("images", "belong into messages of the user", "unsupported_value")
    return None if parts is None else ChatMessage(role, (*images, *parts))


def _read_content(item: RequestFields, role: Role, limits: Limits) -> list[Part] | None:
    """The parts of a message; None for one that says nothing, or whose content is wrong."""
    content = item.raw("content")
    if content is None and (role != "user" or item.raw("images")):
        return [] if item.raw("images") else None
    if not item.require("content"):
        return None
    called = any(item.raw(key) for key in ("tool_calls", "function_call"))
    if content in ("", []):
        return None if called else []
    if isinstance(content, str):
        text = item.text("content")
        return [text] if text else []
    if not isinstance(content, list):
        item.note("content", f"must be a string or an array of parts, not {kind_of(content)}", "invalid_type")
        return None
    found = item.objects("content", limits.n_parts, _form_part)
    parts = [read for part in found for read in _read_part(role, part)]
    is_passed = any(part.raw("type") in _PASSED_PARTS for part in found)
    return None if is_passed and not parts else parts


def _form_part(part: Any) -> Any:
    """A part as an object with a type: some clients send plain strings, leave out the type, or have null for text."""
    if part is None or isinstance(part, str):
        return {"type": "text", "text": part or ""}
    if not isinstance(part, dict):
        return part
    if part.get("type") is None:
        kind = next((key for key in ("text", "image_url") if part.get(key) is not None), None)
        return part if kind is None else {**part, "type": kind}
    key = _TEXT_PARTS.get(part["type"]) if isinstance(part["type"], str) else None
    return {**part, key: ""} if key in part and part[key] is None else part


def _read_part(role: Role, part: RequestFields) -> list[Part]:
    kind = part.raw("type")
    if kind in _PASSED_PARTS:
        part.ignore("type", f"{kind!r} is not supported: texts and images are", "unsupported_value")
    elif not isinstance(kind, str):
        if part.require("type"):
            part.text("type")
    elif kind in _TEXT_PARTS:
        refuse_stray_images(part)
        part.ignore_unknown(("type", _TEXT_PARTS[kind]))
        text = part.text(_TEXT_PARTS[kind]) if part.require(_TEXT_PARTS[kind]) else None
        return [text] if text else []
    elif kind in IMAGE_PARTS:
        if role != "user":
            part.note("type", "image_url belongs into messages of the user", "unsupported_value")
        image = read_image_part(part, kind)
        return [] if image is None else [image]
    else:
        known = ", ".join((*_TEXT_PARTS, *IMAGE_PARTS))
        part.note("type", f"must be one of {known}", "unsupported_value")
    return []


def _join_neighbours(messages: Sequence[ChatMessage]) -> tuple[ChatMessage, ...]:
    return tuple(
        ChatMessage(role, tuple(part for message in neighbours for part in message.parts))
        for role, neighbours in groupby(messages, key=lambda message: message.role)
    )
