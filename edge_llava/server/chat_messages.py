"""The messages of a chat request: roles, texts, and addresses of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from edge_llava.server.limits import Limits
from edge_llava.server.request_fields import RequestFields, kind_of

Role = Literal["system", "user", "assistant"]
_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_UNSUPPORTED_ROLES = ("tool", "function")
_MESSAGE_FIELDS = ("role", "content", "name", "refusal", "annotations", "audio", "tool_calls", "function_call")
_UNSUPPORTED_PARTS = ("input_audio", "file", "video_url", "refusal")
_DETAILS = ("auto", "low", "high", "original")


@dataclass(frozen=True)
class ImageAddress:
    """A picture as a client names it.

    Attributes:
        url: What was sent; not yet looked at.
        param: Where it stands in the request.
    """

    url: str
    param: str


@dataclass(frozen=True)
class ChatMessage:
    """One turn: its text, and its pictures in order."""

    role: Role
    text: str
    images: tuple[ImageAddress, ...] = ()


def read_messages(request: RequestFields, limits: Limits) -> tuple[ChatMessage, ...]:
    """The conversation: a system message or none, then user and assistant in turn, the user last.

    Neighbours of one role are joined. What is wrong is noted in the request's faults.
    """
    if not request.require("messages"):
        return ()
    found = []
    for item in request.objects("messages", limits.n_messages):
        message = _read_message(item, limits)
        if message is not None:
            found.append(message)
    n_chars, n_images = sum(len(m.text) for m in found), sum(len(m.images) for m in found)
    if n_chars > limits.text_chars:
        request.note("messages", f"hold {n_chars} characters; the limit is {limits.text_chars}", "string_too_long")
    if n_images > limits.n_images:
        request.note("messages", f"hold {n_images} pictures; the limit is {limits.n_images}", "too_many_images")
    messages = _join_neighbours(found)
    if not request.faults.found:
        _check_order(request, messages)
    return messages


def _read_message(item: RequestFields, limits: Limits) -> ChatMessage | None:
    item.refuse_unknown(_MESSAGE_FIELDS)
    for key in ("tool_calls", "function_call", "audio"):
        if item.has(key) and item.raw(key) != []:
            item.note(key, "is not supported", "unsupported_parameter")
    item.text("name")  # OpenAI's label of a speaker: taken, and not shown to the model
    if item.raw("role") in _UNSUPPORTED_ROLES:
        item.note("role", "of tools is not supported", "unsupported_value")
        return None
    name = item.text("role", tuple(_ROLES)) if item.require("role") else None
    if name is None or not item.require("content"):
        return None
    role, content = _ROLES[name], item.raw("content")
    if isinstance(content, str):
        text = item.text("content")
        return None if text is None else ChatMessage(role, text)
    if not isinstance(content, list):
        item.note("content", f"must be a string or an array of parts, not {kind_of(content)}", "invalid_type")
        return None
    return _read_parts(role, item.objects("content", limits.n_parts))


def _read_parts(role: Role, parts: Sequence[RequestFields]) -> ChatMessage:
    texts, images = [], []
    for part in parts:
        if part.raw("type") in _UNSUPPORTED_PARTS:
            part.note("type", f"{part.raw('type')!r} is not supported: text and image_url are", "unsupported_value")
            continue
        kind = part.text("type", ("text", "image_url")) if part.require("type") else None
        if kind == "text" and part.require("text"):
            part.refuse_unknown(("type", "text"))
            texts.append(part.text("text") or "")
        elif kind == "image_url" and part.require("image_url"):
            part.refuse_unknown(("type", "image_url"))
            if role != "user":
                part.note("type", "image_url belongs into messages of the user", "unsupported_value")
            images += _read_address(part)
    return ChatMessage(role, "\n".join(texts), tuple(images))


def _read_address(part: RequestFields) -> list[ImageAddress]:
    address = part.object("image_url")
    if address is None or not address.require("url"):
        return []
    address.refuse_unknown(("url", "detail"))
    address.text("detail", _DETAILS)  # LLaVA sees every picture the same way
    url = address.text("url")
    return [] if url is None else [ImageAddress(url, address.place("url"))]


def _join_neighbours(messages: Sequence[ChatMessage]) -> tuple[ChatMessage, ...]:
    joined: list[ChatMessage] = []
    for message in messages:
        if joined and joined[-1].role == message.role:
            last = joined[-1]
            text = "\n".join(text for text in (last.text, message.text) if text)
            joined[-1] = replace(last, text=text, images=last.images + message.images)
        else:
            joined.append(message)
    return tuple(joined)


def _check_order(request: RequestFields, messages: Sequence[ChatMessage]) -> None:
    turns = messages[1:] if messages[0].role == "system" else messages
    if any(message.role == "system" for message in turns):
        request.note("messages", "may have a system message only at their beginning")
    elif not turns or turns[0].role != "user":
        request.note("messages", "must begin with the user, after the system message if there is one")
    elif turns[-1].role != "user":
        request.note("messages", "must end with the user's, which is answered")
