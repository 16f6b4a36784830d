"""Requests of OpenAI's Responses API as requests of its chat API.

Source: https://platform.openai.com/docs/api-reference/responses/create
"""

from __future__ import annotations

import re
from typing import Any

from edge_llava.server.openai.errors import Faults
from edge_llava.server.openai.request_fields import RequestFields
from edge_llava.server.openai.translation import Json, Translation

_MOVED = ("input", "instructions", "max_output_tokens", "text", "stream", "stream_options")
# state that OpenAI's service keeps, and this server does not
_KEPT_ELSEWHERE = ("previous_response_id", "conversation", "prompt")
_IDLE = ("include", "reasoning", "max_tool_calls", "context_management", "prompt_cache_options")
_PARTS = {"input_text": "text", "output_text": "text", "text": "text", "input_image": "image_url"}
_IDLE_ITEM_FIELDS = ("id", "type", "status", "phase")
_IDLE_PART_FIELDS = ("annotations", "logprobs")
# what other models have thought and called: the history is read without it, as in the chat API
_UNSAID = re.compile(r"reasoning|compaction|mcp_\w{1,60}|\w{1,60}_call(_output)?")


def translate_response(data: Json) -> Translation:
    """A body of /v1/responses.

    Raises:
        RequestFault: If it asks for what this server cannot do; all faults at once.
    """
    faults, made = Faults(), Translation()
    fields = RequestFields(data, "", faults)
    _refuse_state(fields)
    made.chat["messages"] = _read_input(fields, made)
    _read_text(fields, made)
    if fields.has("max_output_tokens"):
        made.put("max_tokens", data["max_output_tokens"], "max_output_tokens")
    made.chat["stream"] = data.get("stream")
    if data.get("stream") is True:
        made.chat["stream_options"] = {"include_usage": True}
    for key in _IDLE:
        if data.get(key) not in (None, [], {}, "disabled"):
            made.ignore(key)
    for key, value in data.items():  # what has the chat API's name, or none, is up to the reader of chat requests
        if key not in (*_MOVED, *_KEPT_ELSEWHERE, *_IDLE, "background", "top_logprobs"):
            made.hand_on(key, key, value)
    faults.check()
    return made


def _refuse_state(fields: RequestFields) -> None:
    for key in _KEPT_ELSEWHERE:
        if fields.raw(key) not in (None, "", {}):
            fields.note(
                key, "is not supported: no response is kept. Send the whole conversation as 'input'",
                "unsupported_parameter",
            )  # fmt: skip
    if fields.raw("background"):
        fields.note("background", "is not supported: no response is kept", "unsupported_parameter")
    if fields.raw("top_logprobs"):
        fields.note("top_logprobs", "is not supported here; /v1/chat/completions has it", "unsupported_parameter")


def _read_input(fields: RequestFields, made: Translation) -> list[Any]:
    messages: list[Any] = []
    instructions = fields.text("instructions")
    if instructions:
        messages.append({"role": "system", "content": instructions})
    made.places["messages"] = "input"
    if not fields.require("input"):
        return messages
    given = fields.raw("input")
    if isinstance(given, str):
        made.places[f"messages[{len(messages)}].content"] = "input"
        return [*messages, {"role": "user", "content": given}]
    if not isinstance(given, list):
        fields.note("input", "must be a string or an array of items", "invalid_type")
        return messages
    for n, item in enumerate(given):
        place = f"input[{n}]"
        if isinstance(item, dict) and item.get("type") not in (None, "message"):
            _pass_over(item, place, fields, made)
            continue
        made.places[f"messages[{len(messages)}]"] = place
        messages.append(_read_item(item, place, f"messages[{len(messages)}]", made))
    return messages


def _pass_over(item: Json, place: str, fields: RequestFields, made: Translation) -> None:
    """An item that is not a message."""
    if isinstance(item["type"], str) and _UNSAID.fullmatch(item["type"]):
        made.ignore(place)
        return
    shown = str(item["type"])[:40]
    message = f"{shown!r} is not supported: no response is kept, and this model does not support tools; give messages"
    fields.faults.note(f"{place}.type", f"'{place}.type' {message}", "unsupported_value")


def _read_item(item: Any, place: str, chat_place: str, made: Translation) -> Any:
    if not isinstance(item, dict):
        return item
    kept = {key: value for key, value in item.items() if key not in _IDLE_ITEM_FIELDS}
    if isinstance(kept.get("content"), list):
        parts = []
        for n, part in enumerate(kept["content"]):
            parts.append(_read_part(part))
            if isinstance(part, dict) and part.get("type") == "input_image":
                made.places[f"{chat_place}.content[{n}].image_url.url"] = f"{place}.content[{n}].image_url"
        kept["content"] = parts
    return kept


def _read_part(part: Any) -> Any:
    """A part as the chat API has it; one of a kind that it does not know is left to its reader."""
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str) or kind not in _PARTS:
        return part
    kept = {key: value for key, value in part.items() if key not in _IDLE_PART_FIELDS} | {"type": _PARTS[kind]}
    if kind == "input_image":
        if kept.get("file_id") is None:
            kept.pop("file_id", None)
        detail, url = kept.pop("detail", None), kept.get("image_url")
        if isinstance(url, str):
            kept["image_url"] = {"url": url} if detail is None else {"url": url, "detail": detail}
    return kept


def _read_text(fields: RequestFields, made: Translation) -> None:
    text = fields.object("text")
    if text is None:
        return
    if text.has("verbosity"):
        made.ignore("text.verbosity")
    wanted = text.object("format")
    if wanted is None:
        return
    given: Json = text.raw("format")
    if given.get("type") == "json_schema":
        described = {key: value for key, value in given.items() if key != "type"}
        made.put("response_format", {"type": "json_schema", "json_schema": described}, "text.format")
        made.places["response_format.json_schema"] = "text.format"
    else:
        made.put("response_format", given, "text.format")
