"""GET /openapi.json: describes the API (OpenAPI 3.1), generated from the models that validate requests."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

from edge_llava.server.ollama.request import NameRequest, OllamaChatRequest, OllamaGenerateRequest
from edge_llava.server.openai.chat_request import ChatRequest
from edge_llava.server.openai.fields import IF_STRICT
from edge_llava.server.openai.responses_request import ResponsesRequest
from edge_llava.server.openai.text_request import TextRequest

_REF = "#/components/schemas/{model}"
_NULL = {"type": "null"}
_STATUSES, _BODY_STATUSES = (401, 403, 404, 431, 503), (400, 408, 413, 415, 429, 500)
_EVENTS, _LINES = "text/event-stream", "application/x-ndjson"


@dataclass(frozen=True)
class Operation:
    """An operation that is served at a path.

    Attributes:
        path, method: Its path and HTTP method.
        name, words: Its id and summary.
        request: The model of its body; None if it has no body or ignores it.
        answer: The name of its answer's schema; "" means any object.
        stream: The media type of a streamed answer; "" if it is never streamed.
        is_offered: Whether it is supported; otherwise it always fails.
    """

    path: str
    method: str
    name: str
    words: str
    request: type[BaseModel] | None = None
    answer: str = ""
    stream: str = ""
    is_offered: bool = True


def _refused(path: str, name: str, method: str = "post") -> Operation:
    words = "Not supported: there is one model, which does not change."
    return Operation(path, method, name, words, is_offered=False)


OPERATIONS = (
    Operation(
        "/v1/chat/completions", "post", "createChatCompletion",
        "Answers a conversation, with images in messages of the user.", ChatRequest, "ChatCompletion", _EVENTS,
    ),
    Operation(
        "/v1/responses", "post", "createResponse", "OpenAI's Responses API, for text and images.",
        ResponsesRequest, "", _EVENTS,
    ),
    Operation(
        "/v1/completions", "post", "createCompletion", "Continues a text without the conversation template.",
        TextRequest, "", _EVENTS,
    ),
    Operation(
        "/api/chat", "post", "ollamaChat", "Ollama's chat; a stream by default.", OllamaChatRequest, "", _LINES
    ),
    Operation(
        "/api/generate", "post", "ollamaGenerate", "Ollama's answer to a prompt; a stream by default.",
        OllamaGenerateRequest, "", _LINES,
    ),
    Operation(
        "/v1/prepare", "post", "prepare",
        "Computes images and the conversation before them, so that a question about them is answered sooner. Answers "
        "when that is done; stops when the client disconnects.", ChatRequest,
    ),
    Operation("/v1/models", "get", "listModels", "The models served.", None, "Models"),
    Operation("/v1/models/{model}", "get", "showModel", "One model.", None, "Model"),
    Operation("/health", "get", "showHealth", "Whether the server answers.", None, "Health"),
    Operation("/metrics", "get", "showMetrics", "Counts and gauges for Prometheus."),
    Operation("/api/tags", "get", "ollamaTags", "The model, as Ollama lists it."),
    Operation("/api/show", "post", "ollamaShow", "The model, as Ollama describes it.", NameRequest),
    Operation("/api/ps", "get", "ollamaPs", "The model, which is always loaded."),
    Operation("/api/version", "get", "ollamaVersion", "The version of Ollama's API."),
    Operation("/api/pull", "post", "ollamaPull", "Succeeds for the model that is served.", NameRequest),
    _refused("/api/embed", "ollamaEmbed"),
    _refused("/api/embeddings", "ollamaEmbeddings"),
    _refused("/api/create", "ollamaCreate"),
    _refused("/api/copy", "ollamaCopy"),
    _refused("/api/push", "ollamaPush"),
    _refused("/api/delete", "ollamaDelete", "delete"),
    _refused("/api/blobs/{digest}", "ollamaBlob"),
)  # fmt: skip


def describe_api(*, has_key: bool, strict: bool = False) -> dict[str, Any]:
    """Describes the API of a server.

    Args:
        has_key: Whether it requires an API key.
        strict: Whether fields that have no effect are refused.
    """
    paths: dict[str, Any] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _describe(operation)
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "edge-llava",
            "version": version("edge-llava"),
            "description": "OpenAI-compatible chat about images, on this device.",
        },
        "paths": paths,
        "components": {
            "schemas": _schemas(strict),
            "responses": {
                name: {"description": "The error.", "content": _json(_ref(name))} for name in ("Error", "OllamaError")
            },
        },
    }
    if has_key:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
        paths["/health"]["get"]["security"] = []
    return document


def _describe(operation: Operation) -> dict[str, Any]:
    error = _ref("OllamaError" if operation.path.startswith("/api/") else "Error", "responses")
    statuses = _STATUSES if operation.request is None and operation.is_offered else (*_STATUSES, *_BODY_STATUSES)
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.words,
        "responses": {str(status): error for status in sorted(statuses)},
    }
    if operation.is_offered:
        content = _json(_ref(operation.answer) if operation.answer else {"type": "object"})
        if operation.stream:
            content[operation.stream] = {"schema": {}}
        if operation.path == "/metrics":
            content = {"text/plain": {"schema": {"type": "string"}}}
        described["responses"]["200"] = {"description": operation.words, "content": content}
    if operation.request is not None:
        described["requestBody"] = {"required": True, "content": _json(_ref(operation.request.__name__))}
    names = [part.strip("{}") for part in operation.path.split("/") if part.startswith("{")]
    if names:
        string = {"type": "string"}
        described["parameters"] = [{"name": name, "in": "path", "required": True, "schema": string} for name in names]
    return described


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _ref(name: str, kind: str = "schemas") -> dict[str, Any]:
    return {"$ref": f"#/components/{kind}/{name}"}


def _schemas(strict: bool) -> dict[str, Any]:
    models = dict.fromkeys(operation.request for operation in OPERATIONS if operation.request is not None)
    _, schemas = models_json_schema(
        [(model, "validation") for model in models], ref_template=_REF, schema_generator=_Generator
    )
    described: dict[str, Any] = _make_strict(schemas["$defs"]) if strict else schemas["$defs"]
    return described | _answers()


def _answers() -> dict[str, Any]:
    """The schemas of answers."""
    text, count = {"type": "string"}, {"type": "integer", "minimum": 0}
    text_or_null = {"type": ["string", "null"]}
    details = _object(dict.fromkeys(("cached_tokens", "image_tokens"), count))
    counts = dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), count)
    message = _object({"role": {"const": "assistant"}, "content": text})
    choice = _object({"index": count, "message": message, "finish_reason": {"enum": ["stop", "length"]}})
    choices = {"type": "array", "minItems": 1, "maxItems": 1, "items": choice}
    about = {"id": text, "created": count}
    usage = _ref("Usage")
    error = _object({"message": text, "type": text, "param": text_or_null, "code": text_or_null})
    state = dict.fromkeys(("running", "queued", "parallel"), count) | {"busy": {"type": "boolean"}}
    model = about | {"object": {"const": "model"}, "owned_by": text}
    model |= {"n_ctx": count, "notice": text_or_null, "language_on": text, "vision_on": text}
    completion = about | {"object": {"const": "chat.completion"}, "model": text, "choices": choices, "usage": usage}
    return {
        "ChatCompletion": _object(completion),
        "Usage": _object(counts | {"prompt_tokens_details": details}),
        "Models": _object({"object": {"const": "list"}, "data": {"type": "array", "items": _ref("Model")}}),
        "Model": _object(model),
        "Health": _object({"status": {"const": "ok"}, "model": text} | state),
        "Error": _object({"error": error}),
        "OllamaError": _object({"error": text}),
    }


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*properties]}


class _Generator(GenerateJsonSchema):
    """Pydantic's generator, without titles and null defaults, adapted to this server's models."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Returns False: a title would only repeat the name."""
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """Omits a default of null, because an absent field counts as null."""
        described = super().default_schema(schema)
        return {name: value for name, value in described.items() if (name, value) != ("default", None)}

    def tagged_union_schema(self, schema: core_schema.TaggedUnionSchema) -> JsonSchemaValue:
        """Uses anyOf, because alternatives may overlap and the server chooses."""
        described = super().tagged_union_schema(schema)
        return {"anyOf": described["oneOf"]} if "oneOf" in described else described

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        """Forbids names that do not match the pattern."""
        described = super().dict_schema(schema)
        return described | {"additionalProperties": False} if "patternProperties" in described else described

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        """Omits the title. A field that is null counts as absent, even if unknown fields are refused."""
        described = super().model_schema(schema)
        described.pop("title", None)
        if described.get("additionalProperties") is False:
            described["additionalProperties"] = _NULL
        return described


def _make_strict(schema: Any) -> Any:
    """Converts a schema to that of a strict server."""
    if isinstance(schema, list):
        return [_make_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if IF_STRICT in schema:
        return schema[IF_STRICT]
    described = {name: _make_strict(value) for name, value in schema.items()}
    return described | {"additionalProperties": _NULL} if described.get("additionalProperties") is True else described
