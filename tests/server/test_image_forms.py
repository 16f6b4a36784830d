"""One image in every form that clients send gives the same answer, and is encoded once."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest

SEED = 500

PARTS: dict[str, Callable[[str, str], dict[str, Any]]] = {
    "an object": lambda uri, _: {"type": "image_url", "image_url": {"url": uri, "detail": "auto"}},
    "a string": lambda uri, _: {"type": "image_url", "image_url": uri},
    "base64 in a url": lambda _, data: {"type": "image_url", "image_url": {"url": data}},
    "base64 as a string": lambda _, data: {"type": "image_url", "image_url": data},
    "Responses": lambda uri, _: {"type": "input_image", "image_url": uri, "detail": "high"},
    "Responses, an object": lambda uri, _: {"type": "input_image", "image_url": {"url": uri}},
    "MCP": lambda _, data: {"type": "image", "data": data, "mimeType": "image/png"},
    "MCP with a wrong type": lambda _, data: {"type": "image", "data": data, "mimeType": "image/heic"},
    "Anthropic": lambda _, data: {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": data},
        "cache_control": {"type": "ephemeral"},
    },
    "Anthropic, a URI": lambda uri, _: {"type": "image", "source": {"type": "url", "url": uri}},
    "AI SDK": lambda uri, _: {"type": "image", "image": uri, "mediaType": "image/png"},
    "transformers": lambda uri, _: {"type": "image", "url": uri},
    "wrong media type": lambda uri, _: {
        "type": "image_url",
        "image_url": {"url": uri.replace("image/png", "application/octet-stream")},
    },
}


@pytest.fixture(scope="module")
def expected(server: Any, ask_user: Any, data_uri: Any) -> dict[str, Any]:
    """The answer to OpenAI's documented form."""
    with server.client() as client:
        answer = server.ask(client, messages=[ask_user("What?", data_uri(seed=SEED))], temperature=0)
    assert answer.status_code == 200, answer.text
    return answer.json()


def check(server: Any, client: Any, messages: list[Any], expected: dict[str, Any]) -> None:
    before = server.engine.metrics.images_encoded_total
    answer = server.ask(client, messages=messages, temperature=0)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"] == expected["choices"][0]["message"]
    assert answer.json()["usage"]["prompt_tokens_details"]["image_tokens"] > 0
    assert answer.json()["usage"]["prompt_tokens"] == expected["usage"]["prompt_tokens"]
    assert server.engine.metrics.images_encoded_total == before


@pytest.mark.parametrize("form", PARTS)
@pytest.mark.parametrize("kind", ["text", "input_text"])
def test_parts(server: Any, client: Any, data_uri: Any, image_file: Any, expected: Any, form: str, kind: str) -> None:
    data = base64.b64encode(image_file(seed=SEED)).decode()
    part = PARTS[form](data_uri(seed=SEED), data)
    content = [{"type": kind, "text": "What?"}, part]
    check(server, client, [{"role": "user", "content": content}], expected)


@pytest.mark.parametrize("content", ["What?", [{"type": "text", "text": "What?"}]])
@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
def test_ollamas_list(server: Any, client: Any, image_file: Any, expected: Any, content: Any, prefix: str) -> None:
    data = prefix + base64.b64encode(image_file(seed=SEED)).decode()
    check(server, client, [{"role": "user", "content": content, "images": [data]}], expected)


def test_an_image_without_a_word(server: Any, client: Any, image_file: Any) -> None:
    data = base64.b64encode(image_file(seed=SEED)).decode()
    for content in (None, "", "absent"):
        message: dict[str, Any] = {"role": "user", "content": content, "images": [data]}
        if content == "absent":
            del message["content"]
        answer = server.ask(client, messages=[message])
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["prompt_tokens_details"]["image_tokens"] > 0


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "data": "http://127.0.0.1/x.png", "mimeType": "image/png"},
        {"type": "image", "source": {"type": "base64", "data": "https://example.com/x.png"}},
        {"type": "image_url", "image_url": "file:///etc/passwd"},
        {"type": "image_url", "image_url": {"url": " FILE:///etc/passwd"}},
        {"type": "image", "source": {"type": "url", "url": "ftp://example.com/x.png"}},
        {"type": "input_image", "image_url": "/etc/passwd"},
        {"type": "image", "url": "C:\\x.png"},
    ],
)
def test_nothing_is_read_from_elsewhere(
    server: Any, client: Any, check_error: Callable[..., dict[str, Any]], part: dict[str, Any]
) -> None:
    answer = server.ask(client, messages=[{"role": "user", "content": [part]}])
    error = check_error(answer, 400, "invalid_image")
    assert error["param"].startswith("messages[0].content[0].")
    assert "passwd" not in error["message"]
