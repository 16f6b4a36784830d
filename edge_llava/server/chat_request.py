"""POST /v1/chat/completions as it is asked: validated by hand, all faults at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge_llava.runtime.past_turns import OnFull
from edge_llava.runtime.sampler import SamplingOptions
from edge_llava.runtime.unicode_text import is_unicode
from edge_llava.server.chat_messages import ChatMessage, read_messages
from edge_llava.server.limits import Limits
from edge_llava.server.openai_errors import Faults
from edge_llava.server.request_fields import RequestFields
from edge_llava.server.response_format import read_grammar

_MAX_TOKENS = 2**31 - 1
_MAX_STOPS, _MAX_STOP_CHARS = 4, 256  # the longer, the more of an answer is held back and compared
_SEEDS = 2**32 - 1  # llama.cpp's; its largest means "draw one"
_SMALLEST_TOP_P = 1e-6  # keeps the likeliest token, as 0 does
_DEFAULTS = SamplingOptions()

# taken without effect: they are about OpenAI's own service
_IGNORED_TEXTS = (
    "user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "service_tier", "verbosity",
)  # fmt: skip
_IGNORED_FLAGS = ("store", "parallel_tool_calls")
# refused unless they ask for nothing: the values that do
_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "reasoning_effort": (),
    "moderation": (),
}
# OpenAI's words, of its Responses API, for what becomes of a conversation that does not fit
_TRUNCATIONS: Mapping[str, OnFull] = {"auto": "drop-oldest", "disabled": "error"}
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repeat_penalty", "seed", "stop")
_KNOWN = (
    "model", "messages", "n", "stream", "stream_options", "max_tokens", "max_completion_tokens", "response_format",
    "metadata", "truncation", *_SAMPLING, *_IGNORED_TEXTS, *_IGNORED_FLAGS, *_UNSUPPORTED,
)  # fmt: skip


@dataclass(frozen=True)
class ChatRequest:
    """What is wanted.

    Attributes:
        model: The name that was asked for, or None.
        messages: The conversation; pictures are addresses still.
        options: How to draw the answer.
        stream: Whether to send the answer as it grows.
        include_usage: Whether the stream ends with counts.
        on_full: What becomes of a conversation that does not fit; None: as the server was told.
    """

    model: str | None
    messages: tuple[ChatMessage, ...]
    options: SamplingOptions
    stream: bool
    include_usage: bool
    on_full: OnFull | None = None


def read_chat_request(data: Mapping[str, Any], limits: Limits) -> ChatRequest:
    """Reads the JSON object of a request.

    Raises:
        RequestFault: 400 with everything that is wrong with it.
    """
    faults = Faults()
    fields = RequestFields(data, "", faults)
    fields.refuse_unknown(_KNOWN)
    _refuse_unsupported(fields)
    _check_ignored(fields)
    model = fields.text("model")
    messages = read_messages(fields, limits)
    stream = bool(fields.boolean("stream"))
    include_usage = _read_stream_options(fields, stream)
    options = _read_sampling(fields)
    truncation = fields.text("truncation", tuple(_TRUNCATIONS))
    faults.check()
    on_full = None if truncation is None else _TRUNCATIONS[truncation]
    return ChatRequest(model, messages, options, stream, include_usage, on_full)


def _refuse_unsupported(fields: RequestFields) -> None:
    for key, harmless in _UNSUPPORTED.items():
        if fields.has(key) and not any(_same(fields.raw(key), value) for value in harmless):
            fields.note(key, "is not supported", "unsupported_parameter")
    n = fields.integer("n", 1, 128)
    if n is not None and n > 1:
        fields.note("n", "must be 1: one answer is made per request", "unsupported_value")


def _check_ignored(fields: RequestFields) -> None:
    for key in _IGNORED_TEXTS:
        fields.text(key)
    for key in _IGNORED_FLAGS:
        fields.boolean(key)
    fields.object("metadata")


def _same(value: Any, harmless: Any) -> bool:
    """Whether a value is the harmless one, and not True for 1."""
    return isinstance(value, bool) == isinstance(harmless, bool) and bool(value == harmless)


def _read_stream_options(fields: RequestFields, stream: bool) -> bool:
    options = fields.object("stream_options")
    if options is None:
        return False
    options.refuse_unknown(("include_usage", "include_obfuscation"))
    options.boolean("include_obfuscation")
    if not stream:
        fields.note("stream_options", "may be given only where 'stream' is true")
    return bool(options.boolean("include_usage"))


def _read_sampling(fields: RequestFields) -> SamplingOptions:
    given = {
        "temperature": fields.number("temperature", 0, 2),
        "top_p": fields.number("top_p", 0, 1),
        "top_k": fields.integer("top_k", 0, 2**31 - 1),
        "min_p": fields.number("min_p", 0, 0.999),
        "repeat_penalty": fields.number("repeat_penalty", 0.01, 99),
    }
    numbers = {name: getattr(_DEFAULTS, name) if value is None else value for name, value in given.items()}
    seed = fields.integer("seed", -(2**63), 2**64 - 1)
    return SamplingOptions(
        temperature=numbers["temperature"],
        top_k=int(numbers["top_k"]),
        top_p=max(numbers["top_p"], _SMALLEST_TOP_P),
        min_p=numbers["min_p"],
        repeat_penalty=numbers["repeat_penalty"],
        seed=None if seed is None else seed % _SEEDS,
        max_new_tokens=_read_max_tokens(fields),
        stop=_read_stop(fields),
        grammar=read_grammar(fields),
    )


def _read_max_tokens(fields: RequestFields) -> int:
    given = [fields.integer(key, 1, _MAX_TOKENS) for key in ("max_tokens", "max_completion_tokens")]
    if fields.has("max_tokens") and fields.has("max_completion_tokens"):
        fields.note("max_tokens", "and 'max_completion_tokens' say the same: give one of them")
    return given[0] or given[1] or _MAX_TOKENS  # the context ends every answer


def _read_stop(fields: RequestFields) -> tuple[str, ...]:
    value = fields.raw("stop")
    if value is None:
        return ()
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        fields.note("stop", "must be a string or an array of strings", "invalid_type")
        return ()
    if len(texts) > _MAX_STOPS:
        fields.note("stop", f"has {len(texts)} texts; the limit is {_MAX_STOPS}", "array_above_max_length")
        return ()
    if not all(0 < len(text) <= _MAX_STOP_CHARS and is_unicode(text) for text in texts):
        fields.note("stop", f"must hold texts of 1 to {_MAX_STOP_CHARS} characters")
        return ()
    return tuple(texts)
