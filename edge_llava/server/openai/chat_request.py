"""POST /v1/chat/completions as it is asked: validated by hand, all faults at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_llava.runtime.dialogue.past_turns import OnFull
from edge_llava.runtime.options import SamplingOptions
from edge_llava.server.http.limits import Limits
from edge_llava.server.images.image_forms import STRAY_IMAGES
from edge_llava.server.openai.cache_salt import read_salt
from edge_llava.server.openai.chat_messages import ChatMessage, read_messages
from edge_llava.server.openai.chat_sampling import SAMPLING_FIELDS, read_sampling
from edge_llava.server.openai.errors import Faults
from edge_llava.server.openai.ignored_fields import IgnoredFields
from edge_llava.server.openai.request_fields import RequestFields

# taken without effect on the answer: they are about OpenAI's own service, or decide what the cache shares
_SERVICE_TEXTS = (
    "user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "service_tier", "verbosity",
)  # fmt: skip
_SERVICE_FLAGS = ("store", "parallel_tool_calls")
# ignored unless fields that have no effect are refused
_IGNORED = ("reasoning_effort", "prediction", "moderation")
# What changes the form of an answer, or says what it is about, is refused unless it asks for nothing: the values that
# do. Empty texts, arrays and objects always do.
_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
    # older and other APIs: completions, llama.cpp, Ollama, vLLM
    "best_of": (0, 1),
    "echo": (False,),
    "suffix": (),
    "grammar": (),
    "json_schema": (),
    "format": (),
    "n_probs": (0,),
    "prompt_logprobs": (0, False),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "regex": (),
    "ebnf": (),
    "structural_tag": (),
    "stop_token_ids": (),
    "include_stop_str_in_output": (False,),
    "return_tokens_as_token_ids": (False,),
    "return_full_text": (False,),
    "use_beam_search": (False,),
    "structured_outputs": (),
    "images": (),
    **dict.fromkeys(STRAY_IMAGES, ()),
    "documents": (),
}
# OpenAI's words, of its Responses API, for what becomes of a conversation that does not fit
_TRUNCATIONS: Mapping[str, OnFull] = {"auto": "drop-oldest", "disabled": "error"}
_TOOLS = ("tools", "functions")
_TOOL_CHOICES = ("tool_choice", "function_call")
_KNOWN = (
    "model", "messages", "n", "stream", "stream_options", "metadata", "truncation", "continue_final_message",
    "add_generation_prompt", *SAMPLING_FIELDS, *_SERVICE_TEXTS, *_SERVICE_FLAGS, *_IGNORED, *_UNSUPPORTED, *_TOOLS,
    *_TOOL_CHOICES,
)  # fmt: skip


@dataclass(frozen=True)
class ChatRequest:
    """What is wanted.

    Attributes:
        model: The name that was asked for, or None.
        messages: The conversation; images are addresses still.
        options: How to sample the answer.
        stream: Whether to send the answer as it grows.
        include_usage: Whether the stream ends with counts.
        on_full: What becomes of a conversation that does not fit; None: as the server was told.
        salt: What is computed for it is shared with requests of the same salt only; "" where the client gave none.
        ignored: Names of the fields that have no effect.
    """

    model: str | None
    messages: tuple[ChatMessage, ...]
    options: SamplingOptions
    stream: bool
    include_usage: bool
    on_full: OnFull | None = None
    salt: str = ""
    ignored: tuple[str, ...] = ()


def read_chat_request(data: Mapping[str, Any], limits: Limits, *, strict: bool = False) -> ChatRequest:
    """Reads the JSON object of a request. A field that is null is as if not given.

    Args:
        data: The object.
        limits: Caps of the request.
        strict: Whether fields that have no effect are refused, instead of named in `ChatRequest.ignored`.

    Raises:
        RequestFault: 400 with everything that is wrong with it.
    """
    faults, ignored = Faults(), IgnoredFields()
    fields = RequestFields(data, "", faults, None if strict else ignored)
    fields.ignore_unknown(_KNOWN)
    _refuse_unsupported(fields)
    _refuse_tools(fields)
    _check_ignored(fields)
    model = fields.text("model")
    messages = read_messages(fields, limits)
    _check_end(fields, messages)
    stream = bool(fields.boolean("stream"))
    include_usage = _read_stream_options(fields, stream)
    options = read_sampling(fields)
    truncation = fields.text("truncation", tuple(_TRUNCATIONS))
    faults.check()
    on_full = None if truncation is None else _TRUNCATIONS[truncation]
    salt = read_salt(fields)
    return ChatRequest(model, messages, options, stream, include_usage, on_full, salt, tuple(ignored.names))


def _refuse_unsupported(fields: RequestFields) -> None:
    for key, harmless in _UNSUPPORTED.items():
        if fields.has(key) and fields.raw(key) not in ("", [], {}) and not _is_one_of(fields.raw(key), harmless):
            fields.note(key, "is not supported", "unsupported_parameter")
    n = fields.integer("n", 1, 128)
    if n is not None and n > 1:
        fields.note("n", "must be 1: one answer is made per request", "unsupported_value")


def _refuse_tools(fields: RequestFields) -> None:
    """In words that clients look for: many send their tools anyway, and ask again without them."""
    is_none = any(fields.raw(key) == "none" for key in _TOOL_CHOICES)
    for key in _TOOLS:
        if not fields.has(key) or fields.raw(key) == []:
            continue
        if is_none:
            fields.ignore(key)
        else:
            fields.faults.note(
                key,
                f"This model does not support tools. Leave out '{key}', or send 'tool_choice': \"none\"",
                "tools_not_supported",
            )
    for key in _TOOL_CHOICES:
        if fields.has(key) and not _is_one_of(fields.raw(key), ("none", "auto")):
            fields.note(key, "is not supported: this model does not support tools", "tools_not_supported")


def _check_ignored(fields: RequestFields) -> None:
    for key in _IGNORED:
        if fields.has(key):
            fields.ignore(key)
    for key in _SERVICE_TEXTS:
        fields.text(key)
    for key in _SERVICE_FLAGS:
        fields.boolean(key)
    fields.object("metadata")


def _check_end(fields: RequestFields, messages: Sequence[ChatMessage]) -> None:
    """A last message of the assistant is continued; vLLM's and transformers' two flags may say so, too."""
    continues, opens = fields.boolean("continue_final_message"), fields.boolean("add_generation_prompt")
    if not messages or fields.faults.found:
        return
    if messages[-1].role == "assistant":
        if continues is False:
            fields.note("messages", "must end with the user's where 'continue_final_message' is false")
    elif continues or opens is False:
        key = "continue_final_message" if continues else "add_generation_prompt"
        fields.note(key, "needs a last message of the assistant, which is continued")


def _is_one_of(value: Any, harmless: Sequence[Any]) -> bool:
    """Whether a value is a harmless one, and not True for 1."""
    return any(isinstance(value, bool) == isinstance(one, bool) and bool(value == one) for one in harmless)


def _read_stream_options(fields: RequestFields, stream: bool) -> bool:
    options = fields.object("stream_options")
    if options is None:
        return False
    options.ignore_unknown(("include_usage", "include_obfuscation"))
    options.boolean("include_obfuscation")
    if not stream:
        fields.ignore("stream_options", "may be given only where 'stream' is true", "invalid_value")
    return bool(options.boolean("include_usage"))
