"""Bodies of requests of every API, answered by a server over the small bundle."""

from __future__ import annotations

import base64
import io
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from damage import damage_bytes, damage_json, hostile
from frame import Kind, copy_small_bundle
from PIL import Image
from starlette.testclient import TestClient

from edge_llava.runtime.model import LlavaModel
from edge_llava.runtime.options import DecoderOptions, EngineOptions
from edge_llava.server.app import ServerApp
from edge_llava.server.options import ServerOptions

_open: dict[Path, tuple[TestClient, TestClient]] = {}
_LOG: list[str] = []


class Refused(Exception):
    """A status of 4xx."""


class _Note(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            _LOG.append(f"{record.exc_info[1]!r}")


def _image() -> str:
    file = io.BytesIO()
    Image.new("RGB", (9, 16)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _bodies() -> list[tuple[str, dict[str, Any]]]:
    image = _image()
    uri = f"data:image/png;base64,{image}"
    parts = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": uri, "detail": "low"}}]
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts}]
    sampling = {"temperature": 0.5, "top_p": 0.9, "seed": 3, "max_tokens": 3, "stop": ["x"], "n": 1, "user": "u"}
    probabilities = {"logprobs": True, "top_logprobs": 2, "frequency_penalty": 0.1, "logit_bias": {"5": 1}}
    anthropic = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": image}}
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    options = {"num_predict": 3, "temperature": 0, "num_ctx": 128, "stop": ["a"]}
    responses = [{"role": "user", "content": [{"type": "input_text", "text": "What?"},
                                              {"type": "input_image", "image_url": uri}]}]  # fmt: skip
    return [
        ("/v1/chat/completions", {"model": "default", "messages": talk, **sampling, **probabilities}),
        ("/v1/chat/completions", {"messages": talk, "stream": True, "stream_options": {"include_usage": True},
                                  "max_completion_tokens": 3, "response_format": form, "tool_choice": "none"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [anthropic, {"type": "text", "text": "?"}]},
                                               {"role": "assistant", "content": "A"}], "max_tokens": 2,
                                  "continue_final_message": True, "add_generation_prompt": False}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "tools": [tool], "max_tokens": 2,
                                  "tool_choice": "none", "prompt_cache_key": "k", "stop": None}),
        ("/v1/completions", {"prompt": "Once", "max_tokens": 3, "echo": False, "suffix": None, "stream": True}),
        ("/v1/responses", {"model": "default", "input": responses, "instructions": "x", "max_output_tokens": 3,
                           "text": {"format": {"type": "text"}}, "metadata": {"a": "b"}, "stream": True}),
        ("/v1/responses", {"input": "Hello", "max_output_tokens": 2, "user": "u", "temperature": 0}),
        ("/api/chat", {"model": "default", "stream": False, "options": options,
                       "messages": [{"role": "user", "content": "x", "images": [image]}]}),
        ("/api/generate", {"model": "default", "prompt": "x", "images": [image], "options": options, "format": "json",
                           "system": "y", "keep_alive": "5m"}),
        ("/api/generate", {"model": "default", "prompt": "x", "raw": True, "stream": False, "options": options}),
        ("/api/show", {"model": "default"}),
    ]  # fmt: skip


def make(directory: Path) -> Sequence[bytes]:
    """Opens an engine and two servers, the second strict; requests of every API."""
    bundle = copy_small_bundle(directory)
    engine = LlavaModel(bundle, EngineOptions(DecoderOptions(n_ctx=256, n_threads=1), n_vision_threads=1))
    apps = [ServerApp(engine, ServerOptions(strict=strict)) for strict in (False, True)]
    lenient, strict = (TestClient(app.asgi, base_url="http://localhost") for app in apps)
    lenient.__enter__(), strict.__enter__()
    _open[directory] = lenient, strict
    log = logging.getLogger("edge_llava")
    log.setLevel(logging.DEBUG)
    log.addHandler(_Note())
    return [f"{path}\n".encode() + json.dumps(body).encode() for path, body in _bodies()]


def damage(content: bytes, rng: Random) -> bytes:
    """Another body to the same path; now and then its texts are what is hostile, or the path is another."""
    path, body = content.split(b"\n", 1)
    if rng.random() < 0.1:
        path = rng.choice(_bodies())[0].encode()
    if rng.random() < 0.05:
        return path + b"\n" + damage_bytes(body, rng)
    if rng.random() < 0.2:
        data = json.loads(body)
        data[rng.choice((*data, "think", "template", "context", "modalities", "reasoning", "best_of"))] = hostile(rng)
        return path + b"\n" + json.dumps(data).encode()
    return path + b"\n" + damage_json(body, rng)


def read(directory: Path, content: bytes) -> None:
    """Sends it to both servers."""
    path, body = content.split(b"\n", 1)
    statuses = []
    for client in _open[directory]:
        _LOG.clear()
        answer = client.post(path.decode(), content=body, headers={"Content-Type": "application/json"})
        text = answer.content.decode("utf-8")
        assert answer.status_code < 500, f"{answer.status_code} {text} {_LOG}"
        assert "internal_error" not in text, f"{text} {_LOG}"
        assert answer.status_code == 200 or json.loads(text)["error"]
        statuses.append(answer.status_code)
    if statuses[0] != 200:
        raise Refused(f"status {statuses[0]}: {text}")


KIND = Kind(n_cases=150, make=make, damage=damage, read=read, errors=(Refused,))
