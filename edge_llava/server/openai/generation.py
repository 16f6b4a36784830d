"""The fields that requests of all APIs have in common, and the parsed request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from edge_llava.runtime.dialogue.past_turns import OnFull
from edge_llava.runtime.options import SamplingOptions
from edge_llava.server.http.limits import Limits
from edge_llava.server.openai.cache_salt import salt_of
from edge_llava.server.openai.conversation import ChatMessage, arrange
from edge_llava.server.openai.faults import Faults
from edge_llava.server.openai.fields import (
    EMPTY,
    WHOLE,
    Ignored,
    NoEffect,
    Object,
    Refused,
    Text,
    Unsupported,
    with_fields,
)
from edge_llava.server.openai.ignored_fields import list_ignored
from edge_llava.server.openai.image_parts import StrayImages
from edge_llava.server.openai.request_model import RequestModel, Rules, fault, faults_at, parse
from edge_llava.server.openai.sampling import Sampling

# the Responses API's names for what to do with a conversation that does not fit
_TRUNCATIONS: Mapping[str, OnFull] = {"auto": "drop-oldest", "disabled": "error"}
_NO_TOOLS = "'{place}' is not supported: this model does not support tools"
_False = Annotated[Any, Refused((False,))]
_TOOLS = "This model does not support tools. Leave out '{place}', or send 'tool_choice': \"none\""
_Tools = Annotated[Any, NoEffect(message=_TOOLS, code="tools_not_supported")]
_ToolChoice = Annotated[Any, Refused(("none", "auto"), _NO_TOOLS, "tools_not_supported")]


def _check_single(n: int) -> int:
    if n > 1:
        raise fault("unsupported_value", "'{place}' must be 1: one answer is made per request")
    return n


@dataclass(frozen=True)
class ParsedRequest:
    """A request after parsing.

    Attributes:
        model: The requested model, or None.
        messages: The conversation; its images are not opened yet.
        options: How to sample the answer.
        stream: Whether to stream the answer.
        include_usage: Whether the stream ends with counts.
        on_full: What to do with a conversation that does not fit; None applies the server's option.
        salt: Its KV cache is shared only with requests of the same salt; "" if the client gave none.
        ignored: Names of the fields that have no effect.
        is_raw: Whether to continue the text of the only message without the conversation template.
        places: The fields for the conversation and the answer's format, if they are not "messages" and
            "response_format".
    """

    model: str | None
    messages: tuple[ChatMessage, ...]
    options: SamplingOptions
    stream: bool
    include_usage: bool
    on_full: OnFull | None = None
    salt: str = ""
    ignored: tuple[str, ...] = ()
    is_raw: bool = False
    places: Mapping[str, str] = field(default_factory=dict)


_NONE: JsonDict = {"const": "none"}
_NOTHING: JsonDict = {"enum": [*EMPTY]}
TOOLS_SCHEMA: JsonDict = {
    "anyOf": [
        {"properties": {"tools": _NOTHING, "functions": _NOTHING}},
        {"properties": {"tool_choice": _NONE}, "required": ["tool_choice"]},
        {"properties": {"function_call": _NONE}, "required": ["function_call"]},
    ]
}
"""Tools may be listed only if they must not be called."""


# Fields that change the form or the subject of an answer are refused unless their value has no effect.
_Unsupported: Any = with_fields(
    Unsupported, "audio", "web_search_options", "grammar", "json_schema", "format", "guided_json", "guided_regex",
    "guided_choice", "guided_grammar", "regex", "ebnf", "structural_tag", "stop_token_ids", "structured_outputs",
    "images", "documents",
)  # fmt: skip
_UnsupportedFlags: Any = with_fields(
    _False, "echo", "include_stop_str_in_output", "return_tokens_as_token_ids", "return_full_text", "use_beam_search"
)
# accepted without effect on the answer: they concern OpenAI's own service
_Service: Any = with_fields(Text | None, "safety_identifier", "prompt_cache_retention", "service_tier", "verbosity")


class StreamOptions(RequestModel):
    """Options of a streamed answer."""

    include_usage: bool | None = None
    """Whether the stream ends with counts."""
    include_obfuscation: bool | None = None


class GenerationRequest(Sampling, StrayImages, _Unsupported, _UnsupportedFlags, _Service):
    """A request for an answer, in any API."""

    model_config = ConfigDict(json_schema_extra=TOOLS_SCHEMA)

    model: Text | None = None
    """The bundle's name, an alias, "default", or none; any name on a server without aliases."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    """Only if `stream` is true."""
    n: Annotated[int, Field(ge=1, json_schema_extra={"maximum": 1}), WHOLE, AfterValidator(_check_single)] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    """What to do with a conversation that does not fit: "auto" drops its oldest turns, "disabled" refuses it."""
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    tools: _Tools = None
    functions: _Tools = None
    tool_choice: _ToolChoice = None
    function_call: _ToolChoice = None
    reasoning_effort: Ignored = None

    user: Text | None = None
    prompt_cache_key: Text | None = None
    """Only requests with the same key share cached prompts; without one, those with the same `user`."""
    store: bool | None = None
    parallel_tool_calls: bool | None = None
    metadata: Object | None = None

    modalities: Annotated[Any, Refused((["text"],))] = None
    best_of: Annotated[Any, Refused((0, 1))] = None
    suffix: Annotated[Any, Refused(message="'{place}' cannot be used: this model does not support insert")] = None
    n_probs: Annotated[Any, Refused((0,))] = None
    prompt_logprobs: Annotated[Any, Refused((0, False))] = None

    _place: ClassVar[str] = "messages"
    _is_streamed: ClassVar[bool] = False  # if `stream` is not given
    _is_counted: ClassVar[bool] = False  # whether every stream ends with counts

    @model_validator(mode="after")
    def _check_tools(self) -> GenerationRequest:
        """Refuses tools in words that clients look for: many always send their tools, and retry without them."""
        given = {"tools": self.tools, "functions": self.functions}
        names = [name for name, tools in given.items() if tools not in EMPTY]
        if names and "none" not in (self.tool_choice, self.function_call):
            raise faults_at(dict.fromkeys(names, fault("tools_not_supported", _TOOLS)))
        return self

    def _turns(self) -> list[ChatMessage]:
        """The messages that are not empty."""
        raise NotImplementedError

    def _is_raw(self) -> bool:
        """Whether to continue a text without the conversation template."""
        return False

    def _check_fields(self, faults: Faults) -> None:
        """Collects faults that concern several fields."""

    def read(self, rules: Rules, limits: Limits) -> ParsedRequest:
        """Returns the parsed request.

        Raises:
            RequestError: 400 with all faults that concern several fields, each of which is valid by itself.
        """
        faults = Faults()
        self._check_fields(faults)
        stream = self._is_streamed if self.stream is None else self.stream
        is_pointless = self.stream_options is not None and not stream
        is_counted = self._is_counted or bool(self.stream_options and self.stream_options.include_usage)
        if is_pointless and rules.strict:
            faults.note("stream_options", "'{place}' may be given only where 'stream' is true")
        options = self.sampling_options(faults)
        messages = arrange(self._turns(), self._place, limits, faults)
        self._check_end(messages, faults)
        faults.check()
        return ParsedRequest(
            model=self.model,
            messages=messages,
            options=options,
            stream=stream,
            include_usage=stream and is_counted,
            on_full=None if self.truncation is None else _TRUNCATIONS[self.truncation],
            salt=salt_of(prompt_cache_key=self.prompt_cache_key, user=self.user),
            ignored=(*list_ignored(self), *(["stream_options"] if is_pointless else [])),
            is_raw=self._is_raw(),
            places={"messages": self._place, "response_format": self._answer_format()[1].partition(".")[0]},
        )

    def _check_end(self, messages: Sequence[ChatMessage], faults: Faults) -> None:
        """Checks the flags of vLLM and transformers that state whether the assistant's last message is continued."""
        continues, opens = self.continue_final_message, self.add_generation_prompt
        if not messages:
            return
        if messages[-1].role == "assistant":
            if continues is False:
                faults.note(self._place, "'{place}' must end with the user's where 'continue_final_message' is false")
        elif continues or opens is False:
            name = "continue_final_message" if continues else "add_generation_prompt"
            faults.note(name, "'{place}' needs a last message of the assistant, which is continued")


def read_request(
    model: type[GenerationRequest], data: Mapping[str, Any], rules: Rules, limits: Limits
) -> ParsedRequest:
    """Parses the JSON object of a request.

    Raises:
        RequestError: 400 with everything that is wrong with it.
    """
    return parse(model, data, rules).read(rules, limits)
