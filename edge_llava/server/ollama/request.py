"""Requests of Ollama's API as requests of OpenAI's chat API.

Source: https://github.com/ollama/ollama/blob/main/docs/api.md
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from edge_llava.server.openai.errors import Faults, RequestFault
from edge_llava.server.openai.request_fields import RequestFields
from edge_llava.server.openai.translation import Json, Translation

# options that the chat API knows by the same name
_OPTIONS = (
    "temperature", "top_k", "top_p", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty", "stop",
)  # fmt: skip
# options that only change how a model is loaded, or samplers that are not offered
_IDLE_OPTIONS = (
    "num_ctx", "num_keep", "num_batch", "num_gpu", "main_gpu", "num_thread", "num_gqa", "numa", "low_vram", "f16_kv",
    "logits_all", "vocab_only", "use_mmap", "use_mlock", "embedding_only", "rope_frequency_base",
    "rope_frequency_scale", "draft_num_predict", "repeat_last_n", "tfs_z", "typical_p", "mirostat", "mirostat_tau",
    "mirostat_eta", "penalize_newline",
)  # fmt: skip
_IDLE_FIELDS = ("keep_alive", "truncate", "shift", "width", "height", "steps")
_SHARED_FIELDS = ("model", "stream", "format", "options", "think", "logprobs", "top_logprobs")
_CHAT_FIELDS = ("messages", "tools")
_GENERATE_FIELDS = ("prompt", "system", "images", "suffix", "template", "context", "raw")
_IDLE_MESSAGE_FIELDS = ("thinking", "tool_name", "tool_call_id")
_NO_THINKING = ("", "none", "false", "off", "no")
_MARK = "[img]"  # where an image stands in a text
_ADDRESS = re.compile(r"(data:|https?://)", re.IGNORECASE)


def translate_chat(data: Json) -> Translation:
    """A body of /api/chat.

    Raises:
        RequestFault: If it asks for what this server cannot do; all faults at once.
    """
    faults, made = Faults(), Translation()
    fields = RequestFields(data, "", faults)
    _read_shared(data, fields, made, _CHAT_FIELDS)
    messages = data.get("messages")
    if isinstance(messages, list):
        messages = [_translate_message(message, f"messages[{n}]", faults, made) for n, message in enumerate(messages)]
    made.chat["messages"] = messages
    if data.get("tools"):
        made.chat["tools"] = data["tools"]
    faults.check()
    return made


def translate_generate(data: Json) -> Translation:
    """A body of /api/generate.

    Raises:
        RequestFault: As of `translate_chat`.
    """
    faults, made = Faults(), Translation()
    fields = RequestFields(data, "", faults)
    _read_shared(data, fields, made, _GENERATE_FIELDS)
    system, prompt = fields.text("system"), fields.text("prompt") or ""
    made.is_raw = bool(fields.boolean("raw"))
    _refuse_what_generate_cannot(data, fields, made)
    messages: list[Json] = [{"role": "system", "content": system}] if system and not made.is_raw else []
    place = f"messages[{len(messages)}]"
    made.places |= {"messages": "prompt", "messages[0].content": "system", f"{place}.content": "prompt"}
    images = _read_images(data.get("images"), "images", f"{place}.content", prompt, faults, made)
    messages.append({"role": "user", "content": images or prompt})
    made.chat["messages"] = messages
    faults.check()
    return made


def _refuse_what_generate_cannot(data: Json, fields: RequestFields, made: Translation) -> None:
    if data.get("suffix"):
        fields.note("suffix", "cannot be used: this model does not support insert", "unsupported_parameter")
    if data.get("context"):
        fields.note("context", "is not supported: send the conversation to /api/chat", "unsupported_parameter")
    if data.get("template"):
        if made.is_raw:
            fields.note("raw", "mode does not support template, system, or context")
        made.ignore("template")
    if made.is_raw and data.get("system"):
        fields.note("raw", "mode does not support template, system, or context")
    if made.is_raw and data.get("images"):
        fields.note("images", "cannot be shown in raw mode: leave 'raw' out", "unsupported_value")


def _read_shared(data: Json, fields: RequestFields, made: Translation, own: Sequence[str]) -> None:
    stream = data.get("stream")
    made.chat["stream"] = True if stream is None else stream
    if made.chat["stream"] is True:
        made.chat["stream_options"] = {"include_usage": True}
    think = data.get("think")
    if think is True or (isinstance(think, str) and think.lower() not in _NO_THINKING):
        name = str(data.get("model", "this model"))[:100]
        fields.faults.note("think", f'"{name}" does not support thinking', "unsupported_value")
    _read_format(data.get("format"), fields, made)
    options = fields.object("options")
    if options is not None:
        _read_options(data["options"], made)
    for key in ("logprobs", "top_logprobs"):
        if data.get(key):
            made.chat[key] = data[key]
    for key in _IDLE_FIELDS:
        if data.get(key) is not None:
            made.ignore(key)
    known = (*_SHARED_FIELDS, *_IDLE_FIELDS, *own)
    # what neither API knows is up to the reader of chat requests, under its own name
    for key in data:
        if key not in known:
            made.hand_on(key, key, data[key])


def _read_format(wanted: Any, fields: RequestFields, made: Translation) -> None:
    if wanted is None or wanted == "":
        return
    if wanted == "json":
        made.put("response_format", {"type": "json_object"}, "format")
    elif isinstance(wanted, dict):
        described = {"name": "answer", "schema": wanted}
        made.put("response_format", {"type": "json_schema", "json_schema": described}, "format")
        made.places["response_format.json_schema.schema"] = "format"
    else:
        fields.note("format", "must be 'json' or a JSON schema", "invalid_type")


def _read_options(options: Mapping[str, Any], made: Translation) -> None:
    for name, value in options.items():
        place = f"options.{name}"
        if value is None:
            continue
        if name == "num_predict":
            if not (_is_number(value) and value <= 0):  # -1 and -2 set no limit, as leaving it out does
                made.put("max_tokens", value, place)
        elif name == "seed":
            if not (_is_number(value) and value < 0):  # random
                made.put(name, value, place)
        elif name in _OPTIONS:
            made.put(name, value, place)
        elif name in _IDLE_OPTIONS:
            made.ignore(place)
        else:
            made.hand_on(place, place, value)


def _translate_message(message: Any, place: str, faults: Faults, made: Translation) -> Any:
    if not isinstance(message, dict):
        return message
    for key in _IDLE_MESSAGE_FIELDS:
        if message.get(key):
            made.ignore(f"{place}.{key}")
    left_out = ("images", *_IDLE_MESSAGE_FIELDS)
    kept = {key: value for key, value in message.items() if key not in left_out and value is not None}
    content = kept.get("content", "")
    images = _read_images(message.get("images"), f"{place}.images", f"{place}.content", content, faults, made)
    return kept | {"content": images or content}


def _read_images(images: Any, own: str, place: str, text: Any, faults: Faults, made: Translation) -> list[Json]:
    """The parts of a message with images; none where it has no images, or where they are not valid."""
    if images is None or images == []:
        return []
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        faults.note(own, f"'{own}' must be an array of images in base64", "invalid_type")
        return []
    if not isinstance(text, str):
        faults.note(place, f"'{place}' must be a string", "invalid_type")
        return []
    parts = _arrange(text, images)
    order = [n for n, part in enumerate(parts) if part["type"] == "image_url"]
    n_marked = min(text.count(_MARK), len(images))
    numbers = [*range(n_marked, len(images)), *range(n_marked)]
    for n, number in zip(order, numbers, strict=True):
        made.places[f"{place}[{n}].image_url.url"] = f"{own}[{number}]"
    return parts


def _arrange(text: str, images: Sequence[str]) -> list[Json]:
    """Text and images in order: an image takes the place of the next mark, and those without one come first."""
    n_marked = min(text.count(_MARK), len(images))
    pieces = text.split(_MARK, n_marked)
    parts = [_image_part(image) for image in images[n_marked:]]
    for n, piece in enumerate(pieces):
        if n_marked:  # an image stands on a line of its own in any case
            piece = piece.strip("\n")
        if piece or not n_marked:
            parts.append({"type": "text", "text": piece})
        if n < n_marked:
            parts.append(_image_part(images[n]))
    return parts


def _image_part(image: str) -> Json:
    # the type does not matter: the content decides
    url = image if _ADDRESS.match(image) else f"data:image/jpeg;base64,{image}"
    return {"type": "image_url", "image_url": {"url": url}}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def name_fault(name: str) -> RequestFault:
    """404 in Ollama's words, which clients look for."""
    return RequestFault(404, f"model '{name[:100]}' not found", code="model_not_found", param="model")
