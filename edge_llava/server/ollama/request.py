"""Requests of Ollama's API.

Source: https://github.com/ollama/ollama/blob/main/docs/api.md
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, PlainValidator, Tag, ValidationInfo, WithJsonSchema, model_validator

from edge_llava.runtime.options import SamplingOptions
from edge_llava.server.images.image_address import ImageAddress
from edge_llava.server.openai.conversation import ChatMessage, Part
from edge_llava.server.openai.faults import Faults, tag
from edge_llava.server.openai.fields import WHOLE, Idle, Object, Refused, Text, by_kind, only, with_fields
from edge_llava.server.openai.generation import GenerationRequest
from edge_llava.server.openai.messages import (
    ROLES,
    Images,
    Messages,
    OtherTurn,
    ToolMessage,
    UserTurn,
    read_messages,
)
from edge_llava.server.openai.request_model import RequestModel, fault
from edge_llava.server.openai.response_format import JsonSchema, PlainFormat
from edge_llava.server.openai.sampling import (
    MAX_TOKENS,
    Fraction,
    Logprobs,
    Penalty,
    RepeatPenalty,
    Sampling,
    Stop,
    Temperature,
    TopK,
)

_NO_THINKING = ("", "none", "false", "off", "no")
_MARK = "[img]"  # marks the place of an image in a text


# options that only change how a model is loaded, and samplers that are not supported
_IdleOptions: Any = with_fields(
    Idle, "num_ctx", "num_keep", "num_batch", "num_gpu", "main_gpu", "num_thread", "num_gqa", "numa", "low_vram",
    "f16_kv", "logits_all", "vocab_only", "use_mmap", "use_mlock", "embedding_only", "rope_frequency_base",
    "rope_frequency_scale", "draft_num_predict", "repeat_last_n", "tfs_z", "typical_p", "mirostat", "mirostat_tau",
    "mirostat_eta", "penalize_newline",
)  # fmt: skip
_IdleFields: Any = with_fields(Idle, "keep_alive", "truncate", "shift", "width", "height", "steps")


class Options(_IdleOptions):
    """How an answer is sampled. Other options have no effect."""

    temperature: Temperature | None = None
    top_k: TopK | None = None
    top_p: Fraction | None = None
    min_p: Fraction | None = None
    repeat_penalty: RepeatPenalty | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    stop: Stop | None = None
    seed: Annotated[int, Field(le=2**64 - 1), WHOLE] | None = None
    """Random if it is negative."""
    num_predict: Annotated[int, Field(le=MAX_TOKENS), WHOLE] | None = None
    """No limit if it is 0 or negative."""


def _check_think(think: Any, info: ValidationInfo) -> Any:
    """Refuses thinking with Ollama's message, which clients look for."""
    if think is True or (isinstance(think, str) and think.lower() not in _NO_THINKING):
        name = (info.data.get("model") or "this model")[:100]
        raise fault("unsupported_value", f'"{name}" does not support thinking')
    return think


Format = Annotated[
    Annotated[Literal["", "json"], Tag(tag("string"))] | Annotated[Object, Tag(tag("object"))],
    by_kind("'json' or a JSON schema"),
]


class OllamaRequest(Logprobs, GenerationRequest, _IdleFields):
    """The fields that all requests for an answer have in common."""

    _is_streamed: ClassVar[bool] = True
    _is_counted: ClassVar[bool] = True

    options: Options | None = None
    format: Format | None = None
    """"json", or a JSON schema that the answer follows."""
    name: Text | None = None
    """Another name for `model`."""
    think: Annotated[Any, PlainValidator(_check_think), WithJsonSchema({"enum": [None, False, *_NO_THINKING]})] = None

    def _token_limits(self) -> tuple[int | None, ...]:
        return self.options.num_predict if self.options else None, *super()._token_limits()

    def _answer_format(self) -> tuple[PlainFormat | JsonSchema | None, str]:
        if not self.format:
            return super()._answer_format() if self.format is None else (None, "format")
        if isinstance(self.format, str):
            return PlainFormat(type="json_object"), "format"
        return JsonSchema(name="answer", schema=self.format), "format"

    def sampling_options(self, faults: Faults) -> SamplingOptions:
        """See `Sampling`. `options` override the fields of the same names."""
        if self.options is None:
            return super().sampling_options(faults)
        given = {name: value for name, value in self.options if value is not None and name in Sampling.model_fields}
        if (given.get("seed") or 0) < 0:
            del given["seed"]
        return super(OllamaRequest, self.model_copy(update=given)).sampling_options(faults)


class OllamaUserMessage(UserTurn):
    """A question. Its images replace the marks [img] in its text, or come first."""

    def turn(self, place: str) -> ChatMessage | None:
        """The message as a turn of the conversation."""
        if self.content is None or isinstance(self.content, str):
            return _arrange(self.content or "", self.images or (), f"{place}.images")
        return super().turn(place)


_Message = Annotated[
    Annotated[OllamaUserMessage, Tag(tag("user"))]
    | Annotated[OtherTurn, Tag(tag("text"))]
    | Annotated[ToolMessage, only("role"), Tag(tag("tool"))],
    ROLES,
]


class OllamaChatRequest(OllamaRequest):
    """A conversation to answer."""

    messages: Messages[_Message] | None = None

    def _turns(self) -> list[ChatMessage]:
        return read_messages(self.messages or (), self._place)


class OllamaGenerateRequest(OllamaRequest):
    """A prompt to answer. Its images replace the marks [img] in its text, or come first."""

    _place: ClassVar[str] = "prompt"

    prompt: Text | None = None
    system: Text | None = None
    images: Images | None = None
    raw: bool | None = None
    """Whether the prompt is continued without the conversation template."""
    template: Idle = None
    context: Annotated[Any, Refused(message="'{place}' is not supported: send the conversation to /api/chat")] = None

    def _is_raw(self) -> bool:
        return bool(self.raw)

    def _turns(self) -> list[ChatMessage]:
        system = [ChatMessage("system", (self.system,))] if self.system and not self.raw else []
        return [*system, _arrange(self.prompt or "", self.images or (), "images")]

    def _check_fields(self, faults: Faults) -> None:
        if self.raw and (self.template or self.system):
            faults.note("raw", "'{place}' mode does not support template, system, or context")
        if self.raw and self.images:
            faults.note("images", "'{place}' cannot be used in raw mode: leave out 'raw'", "unsupported_value")


class NameRequest(RequestModel):
    """A request that names a model."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": [name], "properties": {name: {"type": "string", "minLength": 1}}}
                for name in ("model", "name")
            ]
        }
    )

    model: Text | None = None
    name: Text | None = None

    @model_validator(mode="after")
    def _check_name(self) -> NameRequest:
        if not self.model and not self.name:
            raise fault("missing_required_parameter", "model is required")
        return self


def _arrange(text: str, images: Sequence[str], place: str) -> ChatMessage:
    """Builds a question whose images replace the marks in its text; those without a mark come first."""
    addresses = [ImageAddress(image, f"{place}[{n}]") for n, image in enumerate(images)]
    n_marked = min(text.count(_MARK), len(images))
    parts: list[Part] = [*addresses[n_marked:]]
    for n, piece in enumerate(text.split(_MARK, n_marked)):
        if n_marked:  # an image always has a line of its own
            piece = piece.strip("\n")
        parts += [piece] if piece else []
        parts += [addresses[n]] if n < n_marked else []
    return ChatMessage("user", tuple(parts))
