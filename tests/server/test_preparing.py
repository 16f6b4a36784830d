"""POST /v1/prepare: images are computed before the question about them comes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from edge_llava.runtime.vision.image_encoder import ImageEncoder

PREPARE = "/v1/prepare"
Check = Callable[..., dict[str, Any]]


@pytest.fixture
def about(
    ask_user: Callable[..., dict[str, Any]], data_uri: Callable[..., str], image_file: Callable[..., bytes]
) -> Any:
    """about(seed, text="") -> the body of a request about an image; other tests of the same server have other seeds."""

    def make(seed: int, text: str = "", **fields: Any) -> dict[str, Any]:
        shown = data_uri(image_file(seed=seed))
        image = {"type": "image_url", "image_url": {"url": shown}}
        content = [image, {"type": "text", "text": text}] if text else [image]
        return {"messages": [{"role": "user", "content": content}], "max_tokens": 8, "temperature": 0, **fields}

    return make


def test_the_question_finds_what_was_prepared(client: httpx.Client, server: Any, about: Any) -> None:
    plain = client.post("/v1/chat/completions", json=about(7001, "What?", user="another")).json()
    assert client.post(PREPARE, json=about(7001)).json() == {"object": "preparation", "complete": True}
    n_encoded = server.app.answers.engine.metrics.images_encoded_total
    answer = client.post("/v1/chat/completions", json=about(7001, "What?")).json()
    assert answer["choices"] == plain["choices"]
    assert plain["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] > 64
    assert server.app.answers.engine.metrics.images_encoded_total == n_encoded
    assert not server.app.answers._prepared


def test_nothing_to_prepare(client: httpx.Client) -> None:
    body = {"messages": [{"role": "user", "content": "Hello"}]}
    assert client.post(PREPARE, json=body).json() == {"object": "preparation", "complete": True}


def test_what_is_wrong_is_refused_as_in_a_question(
    client: httpx.Client, about: Any, check_error: Check, data_uri: Callable[..., str]
) -> None:
    check_error(client.post(PREPARE, json={"messages": []}), 400)
    broken = {"type": "image_url", "image_url": {"url": data_uri(b"no image")}}
    check_error(client.post(PREPARE, json={"messages": [{"role": "user", "content": [broken]}]}), 400, "invalid_image")
    check_error(client.get(PREPARE), 405)


def test_it_stops_with_its_client_and_leaves_its_place(
    client: httpx.Client, server: Any, about: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, entered, encode = threading.Event(), threading.Event(), ImageEncoder.encode

    def hold(self: Any, *arguments: Any, **options: Any) -> Any:
        entered.set()
        assert release.wait(30)
        return encode(self, *arguments, **options)

    monkeypatch.setattr(ImageEncoder, "encode", hold)
    with pytest.raises(httpx.ReadTimeout):
        client.post(PREPARE, json=about(7002), timeout=1.5)
    assert entered.wait(30)
    server.wait_until(lambda: not server.app.answers._prepared)
    text = client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2})
    assert text.status_code == 200  # though the tower still holds the image
    release.set()
