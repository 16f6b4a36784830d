"""How an answer is sampled: the fields of a chat request for it, in OpenAI's, llama.cpp's and vLLM's words."""

from __future__ import annotations

import re
from typing import Any

from edge_llava.home.unicode_text import is_unicode
from edge_llava.runtime.options import SamplingOptions
from edge_llava.server.openai.request_fields import RequestFields
from edge_llava.server.openai.response_format import read_grammar

# the same settings in other servers' words: of text-generation-webui, Anthropic, llama.cpp
_STOPS = ("stop", "stopping_strings", "stop_sequences")
MAX_TOKENS_FIELDS = ("max_tokens", "max_completion_tokens", "max_new_tokens", "n_predict")
SAMPLING_FIELDS = (
    "temperature", "top_p", "top_k", "min_p", "repeat_penalty", "repetition_penalty", "frequency_penalty",
    "presence_penalty", "logit_bias", "logprobs", "top_logprobs", "seed", "response_format",
    *_STOPS, *MAX_TOKENS_FIELDS,
)  # fmt: skip
MAX_TOKENS = 2**31 - 1
MAX_STOPS, MAX_STOP_CHARS = 32, 256  # the longer, the more of an answer is held back and compared
MAX_TOP_LOGPROBS, MAX_BIASES = 20, 1024
_MAX_BIAS = 100.0
_SEEDS = 2**32 - 1  # llama.cpp's; its largest means "sample one"
_SMALLEST_TOP_P, _LARGEST_MIN_P = 1e-6, 0.999  # keep the likeliest token, as 0 and 1 do
_TOKEN_ID = re.compile(r"[0-9]{1,9}")
_DEFAULTS = SamplingOptions()


def read_sampling(fields: RequestFields) -> SamplingOptions:
    """The options of a request. What is wrong is noted in its faults."""
    temperature = fields.number("temperature", 0, 100)
    top_p = fields.number("top_p", 0, 1)
    seed = fields.integer("seed", -(2**63), 2**64 - 1)
    return SamplingOptions(
        temperature=_DEFAULTS.temperature if temperature is None else temperature,
        top_k=max(0, fields.integer("top_k", -1, 2**31 - 1) or 0),
        top_p=_DEFAULTS.top_p if top_p is None else max(top_p, _SMALLEST_TOP_P),
        min_p=min(fields.number("min_p", 0, 1) or 0.0, _LARGEST_MIN_P),
        repeat_penalty=_read_repeat_penalty(fields),
        frequency_penalty=fields.number("frequency_penalty", -2, 2) or 0.0,
        presence_penalty=fields.number("presence_penalty", -2, 2) or 0.0,
        logit_bias=_read_biases(fields),
        seed=None if seed is None else seed % _SEEDS,
        max_new_tokens=_read_max_tokens(fields),
        stop=_read_stop(fields),
        grammar=read_grammar(fields),
        logprobs=_read_logprobs(fields),
    )


def _read_repeat_penalty(fields: RequestFields) -> float:
    """llama.cpp's name of it, and vLLM's."""
    one, other = (fields.number(key, 0.01, 99) for key in ("repeat_penalty", "repetition_penalty"))
    if one is not None and other is not None and one != other:
        fields.note("repetition_penalty", "and 'repeat_penalty' are the same setting: give one of them")
    return next((given for given in (one, other) if given is not None), _DEFAULTS.repeat_penalty)


def _read_max_tokens(fields: RequestFields) -> int:
    """The smallest of all; 0 and -1 are no limit: the context ends every answer."""
    given = [fields.integer(key, -1, MAX_TOKENS) for key in MAX_TOKENS_FIELDS]
    return min((n for n in given if n is not None and n > 0), default=MAX_TOKENS)


def _read_logprobs(fields: RequestFields) -> int | None:
    is_wanted = fields.boolean("logprobs")
    n_top = fields.integer("top_logprobs", 0, MAX_TOP_LOGPROBS)
    if n_top and not is_wanted:
        fields.note("top_logprobs", "needs 'logprobs': true")
    return (n_top or 0) if is_wanted else None


def _read_biases(fields: RequestFields) -> tuple[tuple[int, float], ...]:
    """OpenAI's map from token ids to -100 to 100; the ids are those of the model that is served."""
    if isinstance(fields.raw("logit_bias"), list):
        return _read_bias_pairs(fields)
    biases = fields.object("logit_bias")
    keys = biases.keys() if biases is not None else ()
    if biases is None or not keys:
        return ()
    if len(keys) > MAX_BIASES:
        fields.note("logit_bias", f"names {len(keys)} tokens; the limit is {MAX_BIASES}", "array_above_max_length")
        return ()
    if not all(map(_TOKEN_ID.fullmatch, keys)):
        fields.note("logit_bias", "must have the ids of tokens as names")
        return ()
    return tuple((int(key), biases.number(key, -_MAX_BIAS, _MAX_BIAS) or 0.0) for key in keys)


def _read_bias_pairs(fields: RequestFields) -> tuple[tuple[int, float], ...]:
    """llama.cpp's form: an array of [id, bias], in which the bias false forbids a token."""
    pairs: list[Any] = fields.raw("logit_bias")
    if len(pairs) > MAX_BIASES:
        fields.note("logit_bias", f"names {len(pairs)} tokens; the limit is {MAX_BIASES}", "array_above_max_length")
        return ()
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        fields.note("logit_bias", "must be an object, or an array of pairs of a token's id and a bias", "invalid_type")
        return ()
    read = []
    for n, (token, bias) in enumerate(pairs):
        pair = {"id": token, "bias": -_MAX_BIAS if bias is False else bias}
        at = RequestFields(pair, f"logit_bias[{n}]", fields.faults)
        if at.require("id") and at.require("bias"):
            read.append((at.integer("id", 0, 10**9 - 1) or 0, at.number("bias", -_MAX_BIAS, _MAX_BIAS) or 0.0))
    return tuple(read)


def _read_stop(fields: RequestFields) -> tuple[str, ...]:
    """The texts of all fields for them, each once; empty ones stop nothing."""
    return tuple(dict.fromkeys(text for key in _STOPS for text in _read_stop_texts(fields, key)))


def _read_stop_texts(fields: RequestFields, key: str) -> list[str]:
    value = fields.raw(key)
    if value is None:
        return []
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(text is None or isinstance(text, str) for text in texts):
        fields.note(key, "must be a string or an array of strings", "invalid_type")
        return []
    if len(texts) > MAX_STOPS:
        fields.note(key, f"has {len(texts)} texts; the limit is {MAX_STOPS}", "array_above_max_length")
        return []
    if not all(text is None or (len(text) <= MAX_STOP_CHARS and is_unicode(text)) for text in texts):
        fields.note(key, f"must hold texts of at most {MAX_STOP_CHARS} characters")
        return []
    return [text for text in texts if text]
