"""The sampling fields of a request, by the names of OpenAI, llama.cpp and vLLM."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, Tag, WithJsonSchema

from edge_llava.runtime.options import SamplingOptions
from edge_llava.server.openai.faults import Faults, tag
from edge_llava.server.openai.fields import FINITE, UNICODE, WHOLE, by_kind
from edge_llava.server.openai.request_model import RequestModel, at_most, fault
from edge_llava.server.openai.response_format import JsonSchema, PlainFormat, ResponseFormat, described, json_options

MAX_TOKENS = 2**31 - 1
_MAX_BIASES, _MAX_BIAS = 1024, 100.0
_SEEDS = 2**32 - 1  # llama.cpp's range; its largest means "choose one at random"
_SMALLEST_TOP_P, _LARGEST_MIN_P = 1e-6, 0.999  # keep the likeliest token, as 0 and 1 do
_TOKEN_ID = re.compile(r"[0-9]{1,9}")
_DEFAULTS = SamplingOptions()

Temperature = Annotated[float, Field(ge=0, le=100), FINITE]
Fraction = Annotated[float, Field(ge=0, le=1), FINITE]
Penalty = Annotated[float, Field(ge=-2, le=2), FINITE]
RepeatPenalty = Annotated[float, Field(ge=0.01, le=99), FINITE]
TopK = Annotated[int, Field(ge=-1, le=2**31 - 1), WHOLE]
Seed = Annotated[int, Field(ge=-(2**63), le=2**64 - 1), WHOLE]
TokenLimit = Annotated[int, Field(ge=-1, le=MAX_TOKENS), WHOLE]
TopLogprobs = Annotated[int, Field(ge=0, le=20), WHOLE]

# the longer a stop text, the more of an answer is held back and compared
_StopText = Annotated[str, Field(max_length=256), UNICODE]
Stop = Annotated[
    Annotated[_StopText, Tag(tag("string"))]
    | Annotated[list[_StopText | None], Field(max_length=32), Tag(tag("array"))],
    by_kind("a string or an array of strings"),
]


def _check_token_id(name: str) -> str:
    if _TOKEN_ID.fullmatch(name) is None:
        raise fault("invalid_value", "'{place}' must have token ids as names")
    return name


def _forbid(bias: Any) -> Any:
    return -_MAX_BIAS if bias is False else bias


_Bias = Annotated[float, Field(ge=-_MAX_BIAS, le=_MAX_BIAS), FINITE]
_TokenName = Annotated[
    str, AfterValidator(_check_token_id), WithJsonSchema({"type": "string", "pattern": f"^{_TOKEN_ID.pattern}$"})
]
_BiasPair = tuple[
    Annotated[int, Field(ge=0, le=10**9 - 1), WHOLE],
    Annotated[_Bias, BeforeValidator(_forbid, json_schema_input_type=_Bias | Literal[False])],
]
LogitBias = Annotated[
    Annotated[dict[_TokenName, _Bias | None], Field(max_length=_MAX_BIASES), at_most(_MAX_BIASES), Tag(tag("object"))]
    | Annotated[list[Annotated[_BiasPair, Field(strict=False)]], Field(max_length=_MAX_BIASES), Tag(tag("array"))],
    by_kind("an object, or an array of pairs of a token's id and a bias"),
]


class Sampling(RequestModel):
    """How an answer is sampled. Defaults are LLaVA's own."""

    temperature: Temperature | None = None
    """0.2 by default."""
    top_p: Fraction | None = None
    top_k: TopK | None = None
    min_p: Fraction | None = None
    repeat_penalty: RepeatPenalty | None = None
    repetition_penalty: RepeatPenalty | None = None
    """vLLM's name for `repeat_penalty`."""
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: LogitBias | None = None
    """Biases of token ids; as pairs, false forbids a token."""
    seed: Seed | None = None
    stop: Stop | None = None
    stopping_strings: Stop | None = None
    """text-generation-webui's name for `stop`."""
    stop_sequences: Stop | None = None
    """Anthropic's name for `stop`."""
    max_new_tokens: TokenLimit | None = None
    n_predict: TokenLimit | None = None
    """llama.cpp's limit of tokens. If there are several limits, the smallest applies; 0 and -1 mean no limit."""
    response_format: ResponseFormat | None = None

    def _token_limits(self) -> tuple[int | None, ...]:
        """Limits of the answer's tokens, the smallest of which applies; None, 0 and -1 mean no limit."""
        return self.max_new_tokens, self.n_predict

    def _n_logprobs(self, faults: Faults) -> int | None:
        """How many of the likeliest tokens are reported with every token; None reports none."""
        return None

    def _answer_format(self) -> tuple[PlainFormat | JsonSchema | None, str]:
        """The format of the answer, and the place of its schema in the request."""
        return described(self.response_format), "response_format.json_schema.schema"

    def sampling_options(self, faults: Faults) -> SamplingOptions:
        """The sampling options of a request. Collects faults that concern several fields."""
        n_tokens = [n for n in self._token_limits() if n is not None and n > 0]
        return SamplingOptions(
            temperature=_DEFAULTS.temperature if self.temperature is None else self.temperature,
            top_k=max(0, self.top_k or 0),
            top_p=_DEFAULTS.top_p if self.top_p is None else max(self.top_p, _SMALLEST_TOP_P),
            min_p=min(self.min_p or 0.0, _LARGEST_MIN_P),
            repeat_penalty=self._repeat_penalty(faults),
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            logit_bias=self._biases(),
            seed=None if self.seed is None else self.seed % _SEEDS,
            max_new_tokens=min(n_tokens, default=MAX_TOKENS),
            stop=self._stops(),
            json_schema=json_options(*self._answer_format(), faults),
            logprobs=self._n_logprobs(faults),
        )

    def _repeat_penalty(self, faults: Faults) -> float:
        given = {p for p in (self.repeat_penalty, self.repetition_penalty) if p is not None}
        if len(given) > 1:
            message = "'{place}' and 'repeat_penalty' are the same setting: give one of them"
            faults.note("repetition_penalty", message)
        return given.pop() if given else _DEFAULTS.repeat_penalty

    def _biases(self) -> tuple[tuple[int, float], ...]:
        if isinstance(self.logit_bias, dict):
            return tuple((int(name), bias) for name, bias in self.logit_bias.items() if bias is not None)
        return tuple(self.logit_bias or ())

    def _stops(self) -> tuple[str, ...]:
        """The stop texts of all fields, each once; empty ones have no effect."""
        fields = (self.stop, self.stopping_strings, self.stop_sequences)
        texts = [text for stop in fields for text in ([stop] if isinstance(stop, str) else stop or ())]
        return tuple(dict.fromkeys(text for text in texts if text))


class Logprobs(Sampling):
    """The fields for log probabilities in the chat API."""

    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None
    """Needs `logprobs`."""

    def _n_logprobs(self, faults: Faults) -> int | None:
        if self.top_logprobs and not self.logprobs:
            faults.note("top_logprobs", "'{place}' needs 'logprobs': true")
        return (self.top_logprobs or 0) if self.logprobs else None
