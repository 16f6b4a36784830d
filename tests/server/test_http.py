"""The server answers every request in OpenAI's form and with its statuses, and keeps running."""

from __future__ import annotations

import base64
import json
import re
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_llava.runtime.dialogue.messages import Message
from edge_llava.runtime.options import SamplingOptions
from edge_llava.server.http import cors
from edge_llava.server.http.limits import Limits
from edge_llava.server.openai.ignored_fields import IgnoredLog
from edge_llava.server.options import ServerOptions

CHAT = "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}
Check = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def keeps_running(server: Any) -> Iterator[None]:
    """After every request, the server answers as before."""
    yield
    with server.client() as client:
        assert server.ask(client).status_code == 200


@pytest.fixture(scope="module")
def small(run_server: Callable[..., Any]) -> Any:
    """A server with small limits."""
    limits = Limits(body_bytes=200_000, n_images=2, image_bytes=50_000, image_pixels=10_000)
    return run_server(ServerOptions(limits=limits))


def test_health_says_what_is_served(client: httpx.Client, server: Any) -> None:
    answer = client.get("/health")
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "ok", "model": server.app.models.name, "running": 0, "queued": 0, "parallel": 2, "busy": False,
    }  # fmt: skip
    assert answer.headers["x-request-id"].startswith("req_")


def test_models_are_openais(client: httpx.Client, server: Any, check_error: Check) -> None:
    name = server.app.models.name
    (model,) = client.get("/v1/models").json()["data"]
    assert (model["id"], model["object"], model["owned_by"]) == (name, "model", "edge-llava")
    assert (model["n_ctx"], model["notice"]) == (1024, None)
    assert (model["language_on"], model["vision_on"]) == (server.engine.language_on, "cpu")
    assert client.get(f"/v1/models/{name}").json() == model
    check_error(client.get("/v1/models/gpt-4o"), 404, "model_not_found", "model")


@pytest.mark.parametrize("asked", [None, "default", "gpt-4o-mini", "", "latest", "a/b:c", "x" * 5000])
def test_every_name_means_the_one_model(client: httpx.Client, server: Any, asked: str | None) -> None:
    name = server.app.models.name
    assert server.ask(client, model=asked).json()["model"] == name
    assert server.ask(client, model=f"{name}:latest").json()["model"] == name


def test_aliases_are_served(run_server: Callable[..., Any], engine: Any, check_error: Check) -> None:
    server = run_server(ServerOptions(aliases=("gpt-4o", "vision")))
    with server.client() as client:
        names = [model["id"] for model in client.get("/v1/models").json()["data"]]
        assert names == ["gpt-4o", "vision", engine.bundle.name]
        assert {server.ask(client, model=name).json()["model"] for name in names} == {"gpt-4o"}
        for name in ("gpt-4o-mini", ""):
            check_error(server.ask(client, model=name), 404, "model_not_found", "model")


def test_an_answer_is_openais(client: httpx.Client, server: Any, ask_user: Any, data_uri: Any) -> None:
    # seeds of this test alone: the engine is shared, and keeps the images of every test before
    urls = [data_uri(seed=880_001), data_uri(seed=880_002, format="JPEG", kind="image/jpeg")]
    before = server.engine.metrics.images_encoded_total
    answer = server.ask(client, messages=[ask_user("What?", *urls)], temperature=0, max_tokens=5).json()
    assert server.engine.metrics.images_encoded_total == before + 2
    assert answer["object"] == "chat.completion"
    assert answer["id"].startswith("chatcmpl-")
    (choice,) = answer["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["finish_reason"] == "length"
    usage = answer["usage"]
    assert usage["completion_tokens"] == 5
    assert usage["prompt_tokens_details"]["image_tokens"] == 2 * 64
    assert usage["prompt_tokens"] > 2 * 64
    assert usage["total_tokens"] == usage["prompt_tokens"] + 5
    assert answer["timings"]["ttft_s"] > 0
    again = server.ask(client, messages=[ask_user("What?", *urls)], temperature=0, max_tokens=5).json()
    assert again["choices"] == answer["choices"]
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"] - 1


def test_answers_are_those_of_a_session(
    client: httpx.Client, server: Any, seeded_f32: Any, ask_user: Any, data_uri: Any, image_file: Any
) -> None:
    import edge_llava
    from edge_llava.runtime.options import DecoderOptions, EngineOptions

    options = EngineOptions(decoder=DecoderOptions(n_threads=1), n_vision_threads=1)
    sampling = edge_llava.SamplingOptions(temperature=0, max_new_tokens=6)
    with edge_llava.load(seeded_f32, options) as model:
        text = "".join(token.text for token in model.session(sampling).ask("What?", image=image_file(seed=3)))
    answer = server.ask(client, messages=[ask_user("What?", data_uri(seed=3))], temperature=0, max_tokens=6).json()
    assert answer["choices"][0]["message"]["content"] == text


def test_stop_and_seed_and_schema(client: httpx.Client, server: Any) -> None:
    one, two, other = (
        server.ask(client, temperature=1, seed=seed, max_tokens=12).json()["choices"][0] for seed in (5, 5, 6)
    )
    assert one == two != other
    text = one["message"]["content"]
    stopped = server.ask(client, temperature=1, seed=5, max_tokens=12, stop=text[3:5]).json()["choices"][0]
    assert stopped["finish_reason"] == "stop"
    assert stopped["message"]["content"] == text[: text.index(text[3:5])]
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "blue"]}, "count": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["colour", "count"],
    }
    for wanted in ({"name": "x", "schema": schema, "strict": True}, {"name": "x", "schema": schema}):
        answer = server.ask(
            client, max_tokens=200, seed=1, response_format={"type": "json_schema", "json_schema": wanted}
        ).json()
        value = json.loads(answer["choices"][0]["message"]["content"])
        assert set(value) == {"colour", "count"}
        assert value["colour"] in ("red", "blue")
        assert 1 <= value["count"] <= 9
    cut = server.ask(client, response_format={"type": "json_object"}, max_tokens=30, seed=1).json()["choices"][0]
    assert cut["message"]["content"].startswith("{")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "unknown_url"),
        ("POST", "/v1/embeddings", 404, "unknown_url"),
        ("GET", "/health/", 404, "unknown_url"),
        ("GET", "/page/../app.py", 404, "unknown_url"),
        ("GET", "/page/%2e%2e/app.py", 404, "unknown_url"),
        ("GET", "/page/..%2fapp.py", 404, "unknown_url"),
        ("GET", CHAT, 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("POST", "/health", 405, "method_not_allowed"),
    ],
)
def test_what_is_not_served(
    client: httpx.Client, check_error: Check, method: str, path: str, status: int, code: str
) -> None:
    answer = client.request(method, path, json={})
    check_error(answer, status, code)
    assert ("allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize("prefix", ["", "/v1"])
@pytest.mark.parametrize("slash", ["", "/", "//"])
def test_paths_without_v1_and_with_a_slash(server: Any, client: httpx.Client, prefix: str, slash: str) -> None:
    name = server.app.models.name
    wanted = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
    assert client.post(f"{prefix}/chat/completions{slash}", json=wanted).json()["object"] == "chat.completion"
    text = {"prompt": "x", "max_tokens": 1}
    assert client.post(f"{prefix}/completions{slash}", json=text).json()["object"] == "text_completion"
    response = {"input": "x", "max_output_tokens": 1}
    assert client.post(f"{prefix}/responses{slash}", json=response).json()["object"] == "response"
    assert client.get(f"{prefix}/models{slash}").json()["data"][0]["id"] == name
    assert client.get(f"{prefix}/models/{name}{slash}").json()["id"] == name
    assert client.get(f"/api/tags{slash}").json()["models"][0]["name"] == f"{name}:latest"
    assert 'path="/chat/completions"' not in client.get("/metrics").text


def test_other_ways_to_write_a_path_need_the_key_too(run_server: Callable[..., Any], check_error: Check) -> None:
    with run_server(ServerOptions(api_key="sk-0123456789")).client() as client:
        for path in ("/models", "/models/", "/v1/models//", "/models/x", "/api/tags/"):
            assert client.get(path).status_code == 401
        assert client.get("/health").status_code == 200


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"{", JSON, 400, "invalid_json"),
        (b"", JSON, 400, "invalid_json"),
        (b"[]", JSON, 400, "invalid_json"),
        (b'{"messages": "\xff\xfe"}', JSON, 400, "invalid_json"),
        ('{"messages": []}'.encode("utf-16"), JSON, 400, "invalid_json"),
        (b'{"a":' * 100_000, JSON, 400, "invalid_json"),
        (b"[" * 90_000, JSON, 400, "invalid_json"),
        (b"[" * 1_000_000, JSON, 413, "request_too_large"),
        (b'{"\\ud800": 1}', JSON, 400, "missing_required_parameter"),
        (b"{}", {}, 415, "unsupported_media_type"),
        (b"{}", {"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
        (b"a=b", {"Content-Type": "application/x-www-form-urlencoded"}, 415, "unsupported_media_type"),
        (b"x", JSON | {"Content-Encoding": "gzip"}, 415, "unsupported_media_type"),
        (b"{}", {"Content-Type": "application/json; charset=utf-8"}, 400, "missing_required_parameter"),
        (b'{"messages": [{"role": "user", "content": 5}]}', JSON, 400, "invalid_type"),
    ],
)
def test_bodies_that_are_not_a_request(
    client: httpx.Client, check_error: Check, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    check_error(client.post(CHAT, content=body, headers=headers), status, code)


IGNORED = "x-edge-llava-ignored"


@pytest.mark.parametrize("stream", [False, True])
def test_fields_without_effect_are_named_in_a_header(client: httpx.Client, server: Any, stream: bool) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "What?", "cache_control": {"type": "x"}}]}]
    answer = server.ask(client, messages=messages, stream=stream, cache_prompt=True, reasoning_effort="none", seed=1)
    assert answer.status_code == 200
    assert set(answer.headers[IGNORED].split(", ")) == {
        "cache_prompt", "reasoning_effort", "messages[].content[].cache_control",
    }  # fmt: skip
    assert IGNORED not in server.ask(client, stream=stream, cache_prompt=None).headers


def test_names_of_fields_cannot_forge_headers_or_log_lines(
    client: httpx.Client, server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "edge_llava.server")
    names = ["a\r\nx-evil: 1", "\x1b[2J", "\x00", "naïve", "secret value", "my_own_field"]
    for _ in range(2):
        answer = server.ask(client, **dict.fromkeys(names, "value"))
        assert answer.headers[IGNORED] == "?, my_own_field"
        assert "x-evil" not in answer.headers
    answer = server.ask(client, **{f"own_field_{n}" + "x" * 40: 1 for n in range(1000)})
    assert answer.headers[IGNORED].endswith(", ...")
    assert len(answer.headers[IGNORED]) < 1400
    logged = [record.getMessage() for record in caplog.records if "no effect" in record.getMessage()]
    assert sum("my_own_field" in line for line in logged) == 1
    assert not any(forged in "".join(logged) for forged in ("evil", "\x1b", "\n", "\x00", "secret", "value"))


def test_the_log_of_names_is_bounded() -> None:
    log, names = IgnoredLog(), [f"k{n}" for n in range(10_000)]
    log.note(names)
    log.note(names)
    assert len(log._logged) == 200


def test_a_strict_server_refuses_fields_without_effect(run_server: Callable[..., Any], check_error: Check) -> None:
    server = run_server(ServerOptions(strict=True))
    with server.client() as client:
        check_error(server.ask(client, cache_prompt=True), 400, "unknown_parameter", "cache_prompt")
        check_error(server.ask(client, reasoning_effort="none"), 400, "unsupported_parameter", "reasoning_effort")
        assert server.ask(client, cache_prompt=None, temperature=0).status_code == 200


def test_pages_of_elsewhere_can_read_every_header(run_server: Callable[..., Any]) -> None:
    """Includes every header that the sources define."""
    sources = Path(cors.__file__).parents[1].rglob("*.py")
    ours = {name for path in sources for name in re.findall(r'"(x-edge-llava-[a-z-]+)"', path.read_text())}
    assert IGNORED in ours
    server = run_server(ServerOptions(cors_origins=("https://app.example",)))
    with server.client(headers={"Origin": "https://app.example"}) as client:
        answer = server.ask(client, cache_prompt=True)
        exposed = {name.strip() for name in answer.headers["access-control-expose-headers"].split(",")}
        assert ours <= exposed


def test_a_bias_beyond_the_vocabulary(client: httpx.Client, server: Any, check_error: Check) -> None:
    error = check_error(server.ask(client, logit_bias={"99999999": 1}), 400, "invalid_value")
    assert "logit_bias names token 99999999" in error["message"]


def test_a_beginning_that_a_schema_cannot_continue(client: httpx.Client, server: Any, check_error: Check) -> None:
    messages = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "{"}]
    answer = server.ask(client, messages=messages, response_format={"type": "json_object"})
    assert "cannot continue" in check_error(answer, 400, "invalid_value")["message"]


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_labels_stand_beside_their_images(
    client: httpx.Client, server: Any, data_uri: Any, image_file: Any, order: tuple[int, int]
) -> None:
    """The prompt equals that of the library's message with places, to the last position."""
    content: list[dict[str, Any]] = []
    for number, seed in enumerate(order, 1):
        content.append({"type": "text", "text": f"Image {number}:"})
        content.append({"type": "image_url", "image_url": {"url": data_uri(seed=seed)}})
    content.append({"type": "text", "text": "Which?"})
    images = tuple(image_file(seed=seed) for seed in order)
    message = Message("user", "Image 1:\nImage 2:\nWhich?", images, (9, 18))
    direct = server.engine.submit([message], SamplingOptions(temperature=0, max_new_tokens=4), lambda token: None)
    assert direct.wait(60)
    answer = server.ask(client, messages=[{"role": "user", "content": content}], temperature=0)
    usage = answer.json()["usage"]
    assert usage["prompt_tokens"] == direct.n_prompt_tokens
    assert usage["prompt_tokens_details"]["cached_tokens"] == direct.n_prompt_tokens - 1


def test_ten_thousand_parts(client: httpx.Client, server: Any, check_error: Check) -> None:
    parts = [{"type": "text", "text": "x"}] * 10_000
    answer = server.ask(client, messages=[{"role": "user", "content": parts}])
    check_error(answer, 400, "array_above_max_length", "messages[0].content")
    answer = server.ask(client, messages=[{"role": "user", "content": "x"}] * 10_000)
    check_error(answer, 400, "array_above_max_length", "messages")


@pytest.mark.parametrize("is_chunked", [False, True])
def test_huge_bodies_are_refused_while_they_are_read(small: Any, check_error: Check, is_chunked: bool) -> None:
    body = b'{"messages": "' + b"x" * 3_000_000 + b'"}'

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(body), 65536):
            yield body[start : start + 65536]

    with small.client() as client:
        answer = client.post(CHAT, content=pieces() if is_chunked else body, headers=JSON)
        check_error(answer, 413, "request_too_large")
        assert small.ask(client).status_code == 200


def test_a_body_that_only_says_it_is_huge(small: Any) -> None:
    host, port = small.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Expect: 100-continue\r\nContent-Length: {10**15}\r\n\r\n".encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_a_body_that_does_not_come(run_server: Callable[..., Any], check_error: Check) -> None:
    server = run_server(ServerOptions(limits=Limits(body_s=0.2)))
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")


def test_what_all_requests_hold_together_is_limited(
    run_server: Callable[..., Any], check_error: Check, ask_user: Any, data_uri: Any
) -> None:
    server = run_server(ServerOptions(limits=Limits(held_bytes=1_000_000)))
    address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
    messages = [ask_user("What?", data_uri(size=(90, 90)))]
    with server.client() as client:
        with socket.create_connection(address, timeout=60) as other:
            head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            other.sendall(f"{head}Content-Length: 700000\r\n\r\n".encode() + b" " * 600_000)
            while "edge_llava_held_bytes 900000\n" not in client.get("/metrics").text:
                pass
            answer = server.ask(client, messages=messages)
            check_error(answer, 429, "rate_limit_exceeded")
            assert int(answer.headers["retry-after"]) >= 1
        server.wait_until(lambda: "edge_llava_held_bytes 0\n" in client.get("/metrics").text)
        assert server.ask(client, messages=messages).status_code == 200


def test_what_a_request_takes_alone_is_limited(
    run_server: Callable[..., Any], check_error: Check, ask_user: Any, data_uri: Any
) -> None:
    """A retry would not help, so it is not a 429."""
    server = run_server(ServerOptions(limits=Limits(held_bytes=100_000)))
    with server.client() as client:
        answer = server.ask(client, messages=[ask_user("What?", data_uri(size=(90, 90)))])
        check_error(answer, 413, "request_too_large")
        assert server.ask(client).status_code == 200
        assert "edge_llava_held_bytes 0\n" in client.get("/metrics").text


def _bomb(side: int) -> bytes:
    """A PNG whose header claims side x side pixels, with a few bytes of data."""
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    data = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + data


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("data:image/png;base64,AAAA", "not an image of type JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF"),
        ("data:image/png;base64,", "is empty"),
        ("data:image/png;base64,!!!!", "not valid base64"),
        ("data:image/png;base64,AAA", "not an image of type JPEG"),
        ("data:image/png;base64,A", "not valid base64"),
        ("data:image/png;base64,é", "not valid base64"),
        ("data:image/png,AAAA", "not an image of type JPEG"),
        ("data:text/html;base64,AAAA", "not an image of type JPEG"),
        ("data:", "must have a comma"),
        ("", "is empty"),
        ("cat.png", "not valid base64"),
        ("file:///etc/passwd", "must be a data: URI"),
        ("FILE:///etc/passwd", "must be a data: URI"),
        ("ftp://example.com/cat.png", "must be a data: URI"),
        ("http://127.0.0.1/cat.png", "not fetched from the web"),
        ("HTTPS://example.com/cat.png", "not fetched from the web"),
        (f"data:image/png;base64,{base64.b64encode(_bomb(60_000)).decode()}", "pixels"),
        (f"data:image/png;base64,{base64.b64encode(_bomb(8_000)).decode()}", "64000000 pixels"),
        (f"data:image/eps;base64,{base64.b64encode(EPS).decode()}", "is a PostScript file, which is not read here"),
    ],
)
def test_files_that_are_not_images(
    client: httpx.Client, server: Any, check_error: Check, ask_user: Any, url: str, says: str
) -> None:
    error = check_error(server.ask(client, messages=[ask_user("What?", url)]), 400, "invalid_image")
    assert error["param"] == "messages[0].content[1].image_url.url"
    assert says in error["message"]


def test_images_that_end_early(
    client: httpx.Client, server: Any, check_error: Check, ask_user: Any, data_uri: Any, image_file: Any
) -> None:
    """Before their first row, or in formats that are not decoded in part."""
    for format, end in (("PNG", 45), ("JPEG", 300), ("GIF", 20), ("WEBP", -40), ("AVIF", -40), ("TIFF", -40)):
        url = data_uri(image_file(format)[:end])
        check_error(server.ask(client, messages=[ask_user("What?", url)]), 400, "invalid_image")


def test_images_are_capped(small: Any, check_error: Check, ask_user: Any, data_uri: Any) -> None:
    with small.client() as client:
        for urls, says in (
            ([data_uri(size=(101, 100))], "10100 pixels"),
            ([data_uri(size=(80, 80)), data_uri(size=(80, 80))], "12800 pixels"),
            ([data_uri(b"\0" * 50_003)], "at most 50000 bytes"),
            ([data_uri()] * 3, "contains 3 images; the limit is 2"),
        ):
            error = check_error(small.ask(client, messages=[ask_user("What?", *urls)]), 400)
            assert says in error["message"]
        assert small.ask(client, messages=[ask_user("What?", data_uri(size=(100, 100)))]).status_code == 200


def test_what_does_not_fit_the_context(
    client: httpx.Client, server: Any, check_error: Check, ask_user: Any, data_uri: Any
) -> None:
    answer = server.ask(client, messages=[ask_user("What? " * 2000)])
    assert "context" in check_error(answer, 400, "context_length_exceeded", "messages")["message"]
    answer = server.ask(client, messages=[ask_user("What?", *[data_uri()] * 16)])
    assert "1024 for 16 images" in check_error(answer, 400, "context_length_exceeded", "messages")["message"]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "cat"},
        {"$ref": "#"},
        {"pattern": "(" * 10_000},
        {"minLength": 10**12},
        {"minItems": "1"},
        {"const": json.loads("[" * 900 + "]" * 900)},
        {"properties": {"a": True}, "required": ["a"] * 90_000},
        {"items": {"oneOf": [{"type": "integer"}, {"type": "number"}]}},
        {"properties": {"mail": {"type": "string", "format": "idn-email"}}},
    ],
)
def test_schemas_that_cannot_compile(client: httpx.Client, server: Any, check_error: Check, schema: Any) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    answer = server.ask(client, response_format=wanted)
    check_error(answer, 400, "invalid_json_schema", "response_format.json_schema.schema")


def test_metrics_are_prometheus(client: httpx.Client, server: Any) -> None:
    server.ask(client)
    answer = client.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    values = {}
    for line in answer.text.splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            values[name] = float(value)
    assert values["edge_llava_answers_total"] >= 1
    assert values['edge_llava_requests_total{path="/v1/chat/completions",status="200"}'] >= 1
    assert values['edge_llava_chat_seconds_bucket{le="+Inf"}'] == values["edge_llava_chat_seconds_count"] >= 1
    assert values["edge_llava_tokens_total"] >= values["edge_llava_answers_total"]
    assert {line.split()[2] for line in answer.text.splitlines() if line.startswith("# HELP")} == {
        line.split()[2] for line in answer.text.splitlines() if line.startswith("# TYPE")
    }


def test_every_metric_is_in_the_docs(client: httpx.Client) -> None:
    text = (Path(__file__).parents[2] / "docs" / "server.md").read_text("utf-8")
    names = {
        line.split()[2].removeprefix("edge_llava_")
        for line in client.get("/metrics").text.splitlines()
        if "# HELP" in line
    }
    assert [name for name in sorted(names) if f"`{name}" not in text] == []


def test_the_page_lets_in_nothing_from_elsewhere(client: httpx.Client) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'self';")
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert client.get("/page/index.html").content == answer.content
    known = client.get("/", headers={"If-None-Match": answer.headers["etag"]})
    assert (known.status_code, known.content) == (304, b"")
