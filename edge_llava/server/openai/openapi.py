"""GET /openapi.json: the API described for programs (OpenAPI 3.1)."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from edge_llava.server.http.limits import Limits
from edge_llava.server.openai.chat_sampling import MAX_STOP_CHARS, MAX_STOPS, MAX_TOKENS

_Schema = dict[str, Any]

# a PNG of one pixel
_DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="

_STREAMED = ("/v1/responses", "/v1/completions", "/api/chat", "/api/generate")
_NOT_OFFERED = "Not offered: there is one model, and it does not change."
_OTHERS = (
    ("/v1/responses", "post", "createResponse", "OpenAI's Responses API, for text and images."),
    ("/v1/completions", "post", "createCompletion", "Continues a text without the conversation template."),
    ("/api/chat", "post", "ollamaChat", "Ollama's chat; a stream by default."),
    ("/api/generate", "post", "ollamaGenerate", "Ollama's answer to a prompt; a stream by default."),
    ("/api/tags", "get", "ollamaTags", "The model, as Ollama lists it."),
    ("/api/show", "post", "ollamaShow", "The model, as Ollama describes it."),
    ("/api/ps", "get", "ollamaPs", "The model, which is always loaded."),
    ("/api/version", "get", "ollamaVersion", "The version of Ollama's API."),
    ("/api/pull", "post", "ollamaPull", "Succeeds for the model that is served."),
    ("/api/embed", "post", "ollamaEmbed", _NOT_OFFERED),
    ("/api/embeddings", "post", "ollamaEmbeddings", _NOT_OFFERED),
    ("/api/create", "post", "ollamaCreate", _NOT_OFFERED),
    ("/api/copy", "post", "ollamaCopy", _NOT_OFFERED),
    ("/api/push", "post", "ollamaPush", _NOT_OFFERED),
    ("/api/delete", "delete", "ollamaDelete", _NOT_OFFERED),
    ("/api/blobs/{digest}", "post", "ollamaBlob", _NOT_OFFERED),
)


def describe_api(limits: Limits, *, has_key: bool) -> dict[str, Any]:
    """The description of a server.

    Args:
        limits: Its caps.
        has_key: Whether it asks for an API key.
    """
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "edge-llava",
            "version": version("edge-llava"),
            "description": "OpenAI-compatible chat about pictures, on this device.",
        },
        "paths": {
            "/v1/chat/completions": {"post": _chat_operation(limits)},
            **_other_apis(),
            "/v1/models": {"get": _operation("listModels", "The models served.", _ref("Models"))},
            "/v1/models/{model}": {"get": _model_operation()},
            "/health": {"get": _operation("showHealth", "Whether the server answers.", _ref("Health"), [503])},
            "/metrics": {"get": _metrics_operation()},
        },
        "components": {"schemas": _schemas(limits)},
    }
    if has_key:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
        document["paths"]["/health"]["get"]["security"] = []
    return document


def _other_apis() -> _Schema:
    """Paths of other APIs, whose requests their own documentation describes."""
    paths: _Schema = {}
    for path, method, name, words in _OTHERS:
        is_ollama = path.startswith("/api/")
        error = {"application/json": {"schema": _ref("OllamaError" if is_ollama else "Error")}}
        responses: _Schema = {"default": {"description": "An error.", "content": error}}
        if words != _NOT_OFFERED:
            stream = "application/x-ndjson" if is_ollama else "text/event-stream"
            streamed: _Schema = {stream: {"schema": {}}} if path in _STREAMED else {}
            answer = {"application/json": {"schema": {"type": "object"}}} | streamed
            responses["200"] = {"description": words, "content": answer}
        operation: _Schema = {"operationId": name, "summary": words, "responses": responses}
        if "{" in path:
            operation["parameters"] = [{"name": "digest", "in": "path", "required": True, "schema": {"type": "string"}}]
        paths[path] = {method: operation}
    return paths


def _chat_operation(limits: Limits) -> _Schema:
    operation = _operation(
        "createChatCompletion",
        "Answers a conversation, with pictures in messages of the user.",
        _ref("ChatCompletion"),
        [400, 403, 404, 408, 413, 415, 429, 500, 503],
    )
    operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": _ref("ChatRequest")}}}
    operation["responses"]["200"]["content"]["text/event-stream"] = {"schema": {}}
    return operation


def _model_operation() -> _Schema:
    operation = _operation("showModel", "One model.", _ref("Model"), [404])
    operation["parameters"] = [{"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}]
    return operation


def _metrics_operation() -> _Schema:
    operation = _operation("showMetrics", "Counts and gauges for Prometheus.", {"type": "string"})
    operation["responses"]["200"]["content"] = {"text/plain": {"schema": {"type": "string"}}}
    return operation


def _operation(name: str, words: str, answer: _Schema, errors: list[int] | None = None) -> _Schema:
    failed = {"description": "An error.", "content": {"application/json": {"schema": _ref("Error")}}}
    responses: _Schema = {"200": {"description": words, "content": {"application/json": {"schema": answer}}}}
    responses |= {str(status): failed for status in sorted({401, 403, 431, *(errors or [])})}
    return {"operationId": name, "summary": words, "responses": responses}


def _ref(name: str) -> _Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _schemas(limits: Limits) -> _Schema:
    return {
        "ChatRequest": _chat_request(limits),
        "Message": _message(limits),
        "ResponseFormat": _response_format(),
        "ChatCompletion": _completion(),
        "Usage": _usage(),
        "Models": _object({"object": {"const": "list"}, "data": {"type": "array", "items": _ref("Model")}}),
        "Model": _object(
            {
                "id": {"type": "string"},
                "object": {"const": "model"},
                "created": {"type": "integer"},
                "owned_by": {"type": "string"},
                "n_ctx": {"type": "integer"},
            }
        ),
        "Health": _object({"status": {"const": "ok"}, "model": {"type": "string"}}),
        "OllamaError": _object({"error": {"type": "string"}}),
        "Error": _object(
            {
                "error": _object(
                    {
                        "message": {"type": "string"},
                        "type": {"type": "string"},
                        "param": _nullable({"type": "string"}),
                        "code": _nullable({"type": "string"}),
                    }
                )
            }
        ),
    }


def _chat_request(limits: Limits) -> _Schema:
    most_tokens = {"type": "integer", "minimum": -1, "maximum": MAX_TOKENS}
    penalty = {"type": "number", "minimum": -2, "maximum": 2, "default": 0}
    repeat = {"type": "number", "minimum": 0.01, "maximum": 99}
    stop = {"type": "string", "maxLength": MAX_STOP_CHARS}
    optional: _Schema = {
        "model": {
            "type": "string",
            "description": "The bundle's name, an alias, 'default', or none; any name without aliases.",
        },
        "stream": {"type": "boolean"},
        "stream_options": _object({"include_usage": {"type": "boolean"}}, required=[]),
        "max_tokens": most_tokens,
        "max_completion_tokens": most_tokens,
        "temperature": {"type": "number", "minimum": 0, "maximum": 100, "default": 0.2},
        "top_p": {"type": "number", "minimum": 0, "maximum": 1, "default": 1},
        "top_k": {"type": "integer", "minimum": -1, "maximum": 2**31 - 1},
        "min_p": {"type": "number", "minimum": 0, "maximum": 1},
        "repeat_penalty": repeat,
        "frequency_penalty": penalty,
        "presence_penalty": penalty,
        "logprobs": {"type": "boolean"},
        "seed": {"type": "integer", "minimum": -(2**63), "maximum": 2**64 - 1},
        "stop": {"anyOf": [stop, {"type": "array", "maxItems": MAX_STOPS, "items": _nullable(stop)}]},
        "response_format": _ref("ResponseFormat"),
        "n": {"type": "integer", "minimum": 1, "maximum": 1},
        "truncation": {"enum": ["auto", "disabled"]},
        "user": {},
    }
    messages = {"type": "array", "minItems": 1, "maxItems": limits.n_messages, "items": _ref("Message")}
    properties = {"messages": messages} | {name: _nullable(schema) for name, schema in optional.items()}
    example = {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is on the table?"},
                    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_DOT}"}},
                ],
            }
        ]
    }
    return _object(properties, required=["messages"]) | {"examples": [example]}


def _message(limits: Limits) -> _Schema:
    text = _object({"type": _nullable({"const": "text"}), "text": _nullable({"type": "string"})}, required=["text"])
    address = _object(
        {
            "url": {
                "type": "string",
                "description": f"A data: URI or base64 of at most {limits.image_bytes} bytes, decoded.",
            },
            "detail": {},
        },
        required=["url"],
    )
    image = _object(
        {"type": _nullable({"const": "image_url"}), "image_url": {"anyOf": [address, {"type": "string"}]}},
        required=["image_url"],
    )
    part = _nullable({"anyOf": [text, image, {"type": "string"}]})
    parts = {"type": "array", "maxItems": limits.n_parts, "items": part}
    return _object(
        {
            "role": {"enum": ["system", "developer", "user", "assistant"]},
            "content": {"anyOf": [{"type": "string"}, parts]},
            "name": _nullable({"type": "string"}),
        },
        required=["role", "content"],
    )


def _response_format() -> _Schema:
    described = _object(
        {
            "name": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"},
            "description": _nullable({"type": "string"}),
            "schema": {"type": "object"},
            "strict": _nullable({"type": "boolean"}),
        },
        required=["name"],
    )
    plain = _object({"type": {"enum": ["text", "json_object"]}}) | {"additionalProperties": False}
    schema = _object({"type": {"const": "json_schema"}, "json_schema": described}) | {"additionalProperties": False}
    return {"anyOf": [plain, schema]}


def _completion() -> _Schema:
    message = _object({"role": {"const": "assistant"}, "content": {"type": "string"}})
    choice = _object({"index": {"type": "integer"}, "message": message, "finish_reason": {"enum": ["stop", "length"]}})
    return _object(
        {
            "id": {"type": "string"},
            "object": {"const": "chat.completion"},
            "created": {"type": "integer"},
            "model": {"type": "string"},
            "choices": {"type": "array", "minItems": 1, "maxItems": 1, "items": choice},
            "usage": _ref("Usage"),
        }
    )


def _usage() -> _Schema:
    count = {"type": "integer", "minimum": 0}
    details = _object({"cached_tokens": count, "image_tokens": count})
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    return _object(dict.fromkeys(names, count) | {"prompt_tokens_details": details})


def _object(properties: _Schema, required: list[str] | None = None) -> _Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": sorted(properties) if required is None else required,
    }


def _nullable(schema: _Schema) -> _Schema:
    return {"anyOf": [schema, {"type": "null"}]}
