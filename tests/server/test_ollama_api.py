"""Ollama's API as photo programs and home automation use it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import httpx
import pytest

from edge_llava.runtime.options import SamplingOptions
from edge_llava.server.http.errors import RequestError
from edge_llava.server.http.limits import Limits
from edge_llava.server.images.image_address import ImageAddress
from edge_llava.server.ollama.form import OllamaForm
from edge_llava.server.ollama.request import OllamaChatRequest, OllamaGenerateRequest
from edge_llava.server.openai.generation import ParsedRequest, read_request
from edge_llava.server.openai.request_model import Rules
from edge_llava.server.options import ServerOptions

FINAL = {
    "model", "created_at", "done", "done_reason", "total_duration", "load_duration", "prompt_eval_count",
    "prompt_eval_duration", "eval_count", "eval_duration",
}  # fmt: skip


@pytest.fixture(scope="module")
def image() -> Callable[[Any, int], str]:
    """image(image_file, seed) -> base64, as Ollama's clients send it."""
    return lambda image_file, seed: base64.b64encode(image_file(seed=seed)).decode()


def lines_of(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.text.endswith("\n")
    return [json.loads(line) for line in answer.text.splitlines()]


def test_photoprism_asks_for_a_caption_and_labels(client: httpx.Client, image: Any, image_file: Any) -> None:
    """internal/ai/vision/api_request.go of photoprism/photoprism: empty fields are sent, too."""
    wanted = {
        "id": "3487da77-246e-4b4c-9437-67507177bcd7", "model": "default", "version": "latest", "suffix": "",
        "system": "", "prompt": "Describe the image in one sentence.", "stream": False,
        "images": [image(image_file, 50)], "options": {"seed": 3, "num_predict": 8, "top_p": 0.9, "stop": ["\n\n"]},
    }  # fmt: skip
    response = client.post("/api/generate", json=wanted)
    assert response.headers["x-edge-llava-ignored"] == "id, version"
    answer = response.json()
    assert set(answer) == FINAL | {"response"}
    assert answer["response"]
    assert answer["model"] == "default"
    assert answer["prompt_eval_count"] > 64
    assert datetime.fromisoformat(answer["created_at"].replace("Z", "+00:00")).tzinfo is not None
    labels = wanted | {"format": "json", "options": {"seed": 3, "num_predict": 8, "num_ctx": 4096, "mirostat": 1}}
    response = client.post("/api/generate", json=labels)
    assert response.json()["response"].startswith("{")
    assert response.headers["x-edge-llava-ignored"] == "options.num_ctx, options.mirostat, id, version"


def test_home_assistant_streams_a_conversation(client: httpx.Client, image: Any, image_file: Any) -> None:
    """homeassistant/components/ollama of home-assistant/core, through the ollama package."""
    wanted = {
        "model": "default", "stream": True, "tools": [], "keep_alive": "-1s", "think": False,
        "options": {"num_ctx": 8192.0, "num_predict": 6.0},
        "messages": [
            {"role": "system", "content": "You are a voice assistant."},
            {"role": "user", "content": "Who is at the door?", "images": [image(image_file, 51)]},
            {"role": "assistant", "content": "A postman."},
            {"role": "user", "content": "What does he carry?"},
        ],
    }  # fmt: skip
    lines = lines_of(client.post("/api/chat", json=wanted))
    assert set(lines[-1]) == FINAL | {"message"}
    assert lines[-1]["message"] == {"role": "assistant", "content": ""}
    assert lines[-1]["eval_count"] == 6
    assert all(set(line) == {"model", "created_at", "message", "done"} for line in lines[:-1])


def test_llm_vision_sends_a_message_for_every_frame(client: httpx.Client, image: Any, image_file: Any) -> None:
    """custom_components/llmvision/providers.py of valentinfrlch/ha-llmvision."""
    frames = [{"role": "user", "content": f"Image {n}:", "images": [image(image_file, 51 + n)]} for n in (1, 2)]
    wanted = {
        "model": "default", "stream": False, "options": {"num_predict": 5, "temperature": 0.2},
        "messages": [*frames, {"role": "user", "content": "What happens?"}],
    }  # fmt: skip
    answer = client.post("/api/chat", json=wanted).json()
    assert answer["message"]["content"]
    assert answer["prompt_eval_count"] > 2 * 64


def test_karakeep_streams_json_of_a_schema(client: httpx.Client, image: Any, image_file: Any) -> None:
    """packages/shared/inference.ts of karakeep-app/karakeep: a stream is what /api/generate gives by default."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object",
        "properties": {"tags": {"type": "array", "maxItems": 2, "items": {"enum": ["cat", "dog"]}}},
        "required": ["tags"], "additionalProperties": False,
    }  # fmt: skip
    wanted = {
        "model": "default", "prompt": "Tags?", "images": [image(image_file, 54)], "format": schema,
        "keep_alive": "5m", "options": {"num_ctx": 2048, "num_predict": 100, "seed": 5},
    }  # fmt: skip
    lines = lines_of(client.post("/api/generate", json=wanted))
    answer = json.loads("".join(line["response"] for line in lines))
    assert set(answer) == {"tags"}
    assert lines[-1]["done_reason"] == "stop"


def test_frigate_shows_frames_with_their_captions(client: httpx.Client, image: Any, image_file: Any) -> None:
    """frigate/genai/plugins/ollama.py of blakeblackshear/frigate, with the options that it always sends."""
    question = {
        "role": "user", "content": "Describe.\nImage 1:\n[img]\nImage 2:\n[img]",
        "images": [image(image_file, 56), image(image_file, 57)],
    }  # fmt: skip
    options = {"temperature": 0.5, "repeat_penalty": 1.05, "presence_penalty": 0.3, "num_predict": 5, "own": 1}
    wanted = {"model": "llava:7b", "messages": [question], "options": options, "stream": False}
    response = client.post("/api/chat", json=wanted)
    assert response.status_code == 200, response.text
    assert response.json()["model"] == "llava:7b"
    assert response.json()["prompt_eval_count"] > 2 * 64
    assert response.headers["x-edge-llava-ignored"] == "options.own"


def test_an_answer_is_continued_with_probabilities(client: httpx.Client) -> None:
    messages = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "The image shows"}]
    wanted = {
        "model": "default", "messages": messages, "options": {"num_predict": 4, "temperature": 0},
        "logprobs": True, "top_logprobs": 2,
    }  # fmt: skip
    whole = client.post("/api/chat", json=wanted | {"stream": False}).json()
    assert len(whole["logprobs"]) == 4
    assert all(len(entry["top_logprobs"]) == 2 and entry["logprob"] <= 0 for entry in whole["logprobs"])
    lines = lines_of(client.post("/api/chat", json=wanted))
    entries = [entry for line in lines for entry in line.get("logprobs", [])]
    assert [entry["bytes"] for entry in entries] == [entry["bytes"] for entry in whole["logprobs"]]
    assert "".join(line["message"]["content"] for line in lines) == whole["message"]["content"]


def test_a_strict_server_refuses_what_neither_api_knows(run_server: Callable[..., Any]) -> None:
    with run_server(ServerOptions(strict=True)).client() as client:
        wanted = {"prompt": "x", "stream": False, "options": {"num_predict": 1, "num_ctx": 512}}
        assert client.post("/api/generate", json=wanted).status_code == 200
        answer = client.post("/api/generate", json=wanted | {"options": {"own": 1}, "mine": 2})
        assert answer.status_code == 400
        assert "'options.own'" in answer.json()["error"]
        assert "'mine'" in answer.json()["error"]


def read_chat(*messages: dict[str, Any], **fields: Any) -> ParsedRequest:
    return read_request(OllamaChatRequest, {"messages": [*messages], **fields}, Rules(), Limits())


def read_prompt(**fields: Any) -> ParsedRequest:
    return read_request(OllamaGenerateRequest, fields, Rules(), Limits())


def parts_of(wanted: ParsedRequest) -> list[str]:
    (message,) = wanted.messages
    return [part.url if isinstance(part, ImageAddress) else part for part in message.parts]


def test_marks_in_a_text_say_where_images_stand() -> None:
    """frigate/genai/plugins/ollama.py of blakeblackshear/frigate."""
    content = "Describe.\nImage 1:\n[img]\nImage 2:\n[img]"
    wanted = read_chat({"role": "user", "content": content, "images": ["A", "B"]})
    assert parts_of(wanted) == ["Describe.\nImage 1:", "A", "Image 2:", "B"]
    more = read_chat({"role": "user", "content": "Here [img]", "images": ["A", "B"]})
    assert parts_of(more) == ["B", "Here ", "A"]
    assert [image.param for image in more.messages[0].images] == ["messages[0].images[1]", "messages[0].images[0]"]
    fewer = read_prompt(prompt="[img] and [img]", images=["A"])
    assert parts_of(fewer) == ["A", " and [img]"]
    assert fewer.messages[0].images[0].param == "images[0]"


def test_options_are_translated_or_named() -> None:
    options = {
        "temperature": 0.5, "top_k": 20.0, "top_p": 0.9, "min_p": 0.1, "repeat_penalty": 1.05, "presence_penalty": 0.3,
        "frequency_penalty": 1.0, "seed": 42.0, "num_predict": 100.0, "stop": ["\n"], "num_ctx": 4096, "numa": None,
        "mirostat": 1, "own": 3,
    }  # fmt: skip
    wanted = read_prompt(model="m", prompt="x", options=options, keep_alive="5m", template="t", temperature=0.9)
    assert wanted.options == SamplingOptions(
        temperature=0.5, top_k=20, top_p=0.9, min_p=0.1, repeat_penalty=1.05, presence_penalty=0.3,
        frequency_penalty=1.0, seed=42, max_new_tokens=100, stop=("\n",),
    )  # fmt: skip
    assert (wanted.stream, wanted.include_usage, parts_of(wanted)) == (True, True, ["x"])
    assert set(wanted.ignored) == {"options.num_ctx", "options.mirostat", "options.own", "keep_alive", "template"}
    for free in (-1, -2, 0, -1.0):
        wanted = read_prompt(prompt="x", options={"num_predict": free, "seed": -1}, stream=False)
        assert wanted.options == SamplingOptions(max_new_tokens=2**31 - 1)
        assert (wanted.stream, wanted.include_usage) == (False, False)


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
def test_a_request_without_a_question_only_loads(client: httpx.Client, server: Any, path: str) -> None:
    before = server.engine.metrics.answers_total
    for wanted in ({"model": "default"}, {"model": "default", "prompt": "", "messages": [], "keep_alive": 0}):
        answer = client.post(path, json=wanted).json()
        assert (answer["done"], answer["done_reason"]) == (True, "load")
        assert answer["message" if "chat" in path else "response"] in ("", {"role": "assistant", "content": ""})
    assert server.engine.metrics.answers_total == before


@pytest.mark.parametrize(
    ("path", "fields", "says"),
    [
        ("/api/chat", {"messages": [{"role": "user", "content": "x"}], "options": 5}, "'options'"),
        ("/api/chat", {"messages": [{"role": "user", "content": "x"}], "format": "xml"}, "'format'"),
        ("/api/chat", {"messages": [{"role": "user", "content": "x"}], "stream": "no"}, "'stream'"),
        ("/api/chat", {"messages": [{"role": "user", "content": "x", "images": "AAAA"}]}, "'messages[0].images'"),
        ("/api/chat", {"messages": [{"role": "user", "content": "x", "images": [[1, 2]]}]}, "'messages[0].images[0]'"),
        ("/api/chat", {"messages": [{"role": "user", "content": 3, "images": ["AAAA"]}]}, "'messages[0].content'"),
        ("/api/chat", {"messages": ["x"]}, "messages[0]"),
        ("/api/chat", {"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ("/api/chat", {"messages": "x"}, "messages"),
        ("/api/generate", {"prompt": 3}, "'prompt'"),
        ("/api/generate", {"prompt": "x", "images": ["AAAA", ""]}, "'images[0]'"),
        ("/api/generate", {"prompt": "x", "suffix": "y"}, "does not support insert"),
        ("/api/generate", {"prompt": "x", "context": [1]}, "/api/chat"),
        ("/api/generate", {"prompt": "x", "raw": True, "system": "y"}, "raw mode"),
        ("/api/generate", {"prompt": "x", "options": {"num_predict": "y"}}, "'options.num_predict'"),
        ("/api/generate", {"prompt": "x", "options": {"seed": True}}, "'options.seed'"),
        ("/api/generate", {"prompt": "x", "format": {"type": "nothing"}}, "schema"),
        ("/api/generate", {"prompt": "x", "think": "high"}, "does not support thinking"),
        ("/api/generate", {"model": 3}, "'model'"),
        ("/api/show", {}, "model is required"),
        ("/api/pull", {"model": 3}, "'model'"),
    ],
)
def test_faults_have_ollamas_form_and_places(
    client: httpx.Client, path: str, fields: dict[str, Any], says: str
) -> None:
    answer = client.post(path, json=fields)
    assert answer.status_code == 400, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.json()) == {"error"}
    assert says in answer.json()["error"].replace("'raw' mode", "raw mode")


def test_everything_below_api_fails_in_ollamas_form(client: httpx.Client, run_server: Any) -> None:
    guarded = run_server(ServerOptions(api_key="sk-0123456789", limits=Limits(body_bytes=1000)))
    with guarded.client() as stranger, guarded.client(headers={"Authorization": "Bearer sk-0123456789"}) as known:
        answers = {
            404: client.get("/api/nothing"),
            405: client.get("/api/chat"),
            403: client.get("/api/tags", headers={"Host": "evil.example"}),
            401: stranger.post("/api/chat", json={}),
            413: known.post("/api/chat", json={"messages": "x" * 2000}),
            400: client.post("/api/chat", content=b"{", headers={"Content-Type": "application/json"}),
        }
        for path in ("/api/embed", "/api/create", "/api/copy", "/api/push", "/api/blobs/sha256:00"):
            assert client.post(path, json={"model": "x"}).status_code == 400
        assert "not offered" in client.request("DELETE", "/api/delete", json={"model": "x"}).json()["error"]
    for status, answer in answers.items():
        assert answer.status_code == status, answer.text
        assert isinstance(answer.json()["error"], str)
    assert "allow" in answers[405].headers
    assert answers[401].headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_programs_need_not_say_that_it_is_json_and_pages_must(client: httpx.Client, kind: str | None) -> None:
    """`curl -d`, as Ollama's documentation has it; a page of another origin could send the same without permission."""
    body = json.dumps({"model": "default", "prompt": "x", "stream": False, "options": {"num_predict": 1}})
    headers = {} if kind is None else {"Content-Type": kind}
    assert client.post("/api/generate", content=body, headers=headers).status_code == 200
    for of_page in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        assert client.post("/api/generate", content=body, headers=headers | of_page).status_code in (403, 415)
    chat = json.dumps({"messages": [{"role": "user", "content": "x"}], "max_tokens": 1})
    assert client.post("/v1/chat/completions", content=chat, headers=headers).status_code == 415


def test_a_fault_in_the_middle_of_a_stream_is_a_line(server: Any, client: httpx.Client) -> None:
    with client.stream("POST", "/api/generate", json={"model": "default", "prompt": "x"}) as response:
        lines = response.iter_lines()
        assert json.loads(next(lines))["done"] is False
        (stream,) = server.app.answers._streams
        stream.answer.cancel()  # as when the server stops
        rest = [json.loads(line) for line in lines]
    assert set(rest[-1]) == {"error"}
    assert "shutting down" in rest[-1]["error"]
    assert not any(line.get("done") for line in rest)


def test_the_log_and_the_counts_know_it(server: Any, client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    def logged() -> list[str]:
        return [record.getMessage() for record in caplog.records if "/api/generate" in record.getMessage()]

    caplog.set_level("INFO", "edge_llava.server")
    wanted = {"prompt": "my secret", "options": {"num_predict": 2}, "stream": False}
    assert client.post("/api/generate", json=wanted).status_code == 200
    server.wait_until(logged)  # the answer arrives before its log line is written
    (line,) = logged()
    assert line.startswith("POST /api/generate 200")
    assert "+ 2 tokens, length" in line
    assert "secret" not in line
    assert 'edge_llava_requests_total{path="/api/generate",status="200"}' in client.get("/metrics").text
    assert client.head("/").status_code == 200  # what Ollama's own command asks first
    assert client.get("/api/version").json()["version"].count(".") == 2


@pytest.mark.parametrize("make", [OllamaForm.chat, OllamaForm.generate])
def test_what_keeps_a_silent_stream_open_is_an_empty_piece(server: Any, make: Callable[..., OllamaForm]) -> None:
    """Clients read every line as JSON: there are no comments."""
    beat = make(server.app.models).beat
    assert beat.endswith(b"}\n")
    line = json.loads(beat)
    assert line["done"] is False
    assert line.get("response", line.get("message", {}).get("content")) == ""


def test_raw_mode_shows_no_images() -> None:
    with pytest.raises(RequestError, match="raw mode"):
        read_prompt(prompt="x", raw=True, images=["AAAA"])
    assert read_prompt(prompt="x", raw=True).is_raw
