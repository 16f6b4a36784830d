"""Who may use a server: keys, host names, pages of other origins; and what its log does not contain."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from edge_llava.server.http.api_key import ApiKey
from edge_llava.server.http.cors import read_origin
from edge_llava.server.http.host_check import is_loopback
from edge_llava.server.options import ServerOptions

KEY = "sk-0123456789"
Check = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def guarded(run_server: Callable[..., Any]) -> Any:
    """A server with a key."""
    return run_server(ServerOptions(api_key=KEY, cors_origins=("https://app.example",)))


@pytest.mark.parametrize(
    "header",
    [None, "", KEY, "Bearer", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", f"Basic {KEY}", "Bearer é"],
)
@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions", "/metrics", "/v1/nothing"])
def test_without_the_key_nothing_is_revealed(guarded: Any, check_error: Check, header: str | None, path: str) -> None:
    headers = {} if header is None else {"Authorization": header.encode()}
    with guarded.client() as client:
        answer = client.post(path, headers=headers, json={}) if "chat" in path else client.get(path, headers=headers)
    check_error(answer, 401, "invalid_api_key")
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER ", "Bearer\t", "Bearer \t "])
def test_with_the_key_everything_is(guarded: Any, scheme: str) -> None:
    with guarded.client(headers={"Authorization": f"{scheme}{KEY}"}) as client:
        assert client.get("/v1/models").status_code == 200
        assert client.get("/metrics").status_code == 200
        assert guarded.ask(client).status_code == 200


@pytest.mark.parametrize("path", ["/health", "/", "/page/index.html", "/openapi.json"])
def test_what_holds_no_secret_is_open(guarded: Any, path: str) -> None:
    with guarded.client() as client:
        assert client.get(path).status_code == 200


@pytest.mark.parametrize(
    "key", ["", "short", "with a space", "sk-\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9", "sk-\n1234567"]
)
def test_keys_are_visible_ascii(key: str) -> None:
    with pytest.raises(ValueError, match="8 or more visible ASCII"):
        ApiKey(key)


def test_random_keys_differ() -> None:
    keys = {ApiKey.generate() for _ in range(10)}
    assert len(keys) == 10
    assert min(map(len, keys)) >= 43
    assert all(ApiKey(key).is_in(f"Bearer {key}".encode()) for key in keys)


@pytest.mark.parametrize(
    ("host", "is_allowed"),
    [
        ("localhost", True), ("LOCALHOST:80", True), ("localhost.:1", True), ("app.localhost", True),
        ("127.0.0.1", True), ("127.8.9.1:9", True), ("[::1]", True), ("[::1]:8080", True),
        ("evil.example", False), ("evil.example:8080", False), ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False), ("10.0.0.1", False), ("[2001:db8::1]", False), ("", False),
        ("0.0.0.0", False),
    ],
)  # fmt: skip
def test_a_local_server_accepts_its_names_only(server: Any, check_error: Check, host: str, is_allowed: bool) -> None:
    with server.client() as client:
        answer = client.get("/v1/models", headers={"Host": host})
        if is_allowed:
            assert answer.status_code == 200
        else:
            check_error(answer, 403, "host_not_allowed")


@pytest.mark.parametrize(
    ("host", "advice"),
    [
        ("host.docker.internal:8080", "'host.docker.internal' is not allowed"),
        ("Host.Docker.Internal", "--allow-host host.docker.internal."),
        ("[2001:db8::1]:80", "--allow-host 2001:db8::1."), ("10.0.0.7", "--allow-host 10.0.0.7."),
        ("<script>", "--allow-host NAME."), ("a b", "--allow-host NAME."), ("$(reboot)", "--allow-host NAME."),
        ("--allow-host", "--allow-host NAME."), ("", "--allow-host NAME."), ("x" * 300, "--allow-host NAME."),
    ],
)  # fmt: skip
def test_a_refused_name_is_named(server: Any, check_error: Check, host: str, advice: str) -> None:
    with server.client() as client:
        error = check_error(client.get("/v1/models", headers={"Host": host}), 403, "host_not_allowed")
    assert advice in error["message"]
    assert "<" not in error["message"]


@pytest.mark.parametrize(
    ("given", "origin"),
    [
        ("https://app.example/", "https://app.example"), ("HTTPS://App.Example", "https://app.example"),
        ("https://app.example:443", "https://app.example"), ("http://app.example:80/", "http://app.example"),
        ("http://localhost:3000", "http://localhost:3000"), ("http://[::1]:3000", "http://[::1]:3000"),
        ("app://obsidian.md", "app://obsidian.md"), ("chrome-extension://abcdef", "chrome-extension://abcdef"),
        ("https://app.example:80", "https://app.example:80"), ("*", "*"), ("null", "null"),
    ],
)  # fmt: skip
def test_origins_are_read_as_browsers_write_them(given: str, origin: str) -> None:
    assert read_origin(given) == origin


@pytest.mark.parametrize(
    "given",
    [
        "http://name:*", "http://*.example", "https://*", "localhost:3000", "localhost", "app.example", "", "http://",
        "http://app.example/path", "http://app.example?x", "http://me@app.example", "http://a b", "http://exämple.de",
        "http://app.example:99999", "http://[::1", "file:///home",
    ],
)  # fmt: skip
def test_origins_that_never_match_are_refused(given: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(given))):
        read_origin(given)


def test_other_names_are_allowed_by_option(run_server: Callable[..., Any]) -> None:
    named, open_ = (
        run_server(ServerOptions(allowed_hosts=("Proxy.Example",))),
        run_server(ServerOptions(allowed_hosts=None)),
    )
    with named.client() as client:
        assert client.get("/health", headers={"Host": "proxy.example:443"}).status_code == 200
        assert client.get("/health", headers={"Host": "other.example"}).status_code == 403
    with open_.client() as client:
        assert client.get("/health", headers={"Host": "other.example"}).status_code == 200


def test_loopback_names() -> None:
    assert is_loopback("127.0.0.1")
    assert is_loopback("::1")
    assert not is_loopback("0.0.0.0")
    assert not is_loopback("localhost")


def test_pages_of_others_are_not_let_in(server: Any, guarded: Any, check_error: Check) -> None:
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    with server.client() as client:
        answer = client.options("/v1/chat/completions", headers={"Origin": "https://app.example"} | asks)
        assert answer.status_code == 405
        assert not [name for name in answer.headers if name.startswith("access-control")]
    with guarded.client() as client:
        answer = client.options("/v1/chat/completions", headers={"Origin": "https://app.example"} | asks)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        refused = client.get("/v1/models", headers={"Origin": "https://app.example"})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "https://app.example"
        for origin in ("https://evil.example", "null"):
            answer = client.options("/v1/chat/completions", headers={"Origin": origin} | asks)
            check_error(answer, 403, "origin_not_allowed")
            assert "access-control-allow-origin" not in answer.headers
        more = {"Origin": "https://app.example", "Access-Control-Request-Method": "DELETE"}
        answer = client.options("/v1/chat/completions", headers=more)
        check_error(answer, 403, "preflight_refused")
        assert answer.headers["access-control-allow-origin"] == "https://app.example"


HERE = "http://localhost:8080"


@pytest.mark.parametrize(
    ("headers", "is_allowed"),
    [
        ({}, True),  # not a browser
        ({"Origin": HERE}, True),
        ({"Origin": HERE.upper()}, True),
        ({"Origin": "https://chat.example", "Host": "chat.example"}, True),  # a proxy that passes the name on
        ({"Origin": "https://chat.example:8443"}, True),  # one that does not
        ({"Origin": "https://other.example", "Sec-Fetch-Site": "same-origin"}, True),
        ({"Origin": "https://app.example"}, True),
        ({"Origin": "https://app.example", "Sec-Fetch-Site": "cross-site"}, True),
        ({"Origin": "https://evil.example"}, False),
        ({"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}, False),
        ({"Origin": "http://localhost:3000"}, False),  # another program of this machine
        ({"Origin": "http://localhost:3000", "Sec-Fetch-Site": "same-site"}, False),
        ({"Origin": "https://chat.example.evil.example"}, False),
        ({"Origin": "https://app.example.evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": ""}, False),
        ({"Origin": "file://"}, False),
        ({"Origin": "http://[::1"}, False),
        ({"Origin": "ftp://localhost:8080"}, False),
    ],
)
def test_what_pages_of_other_origins_send_is_refused(
    run_server: Callable[..., Any], check_error: Check, headers: dict[str, str], is_allowed: bool
) -> None:
    server = run_server(ServerOptions(allowed_hosts=("Chat.Example",), cors_origins=("https://app.example",)))
    with server.client(headers={"Host": "localhost:8080"} | headers) as client:
        answer = server.ask(client)
        assert client.get("/v1/models").status_code == 200  # reading does nothing, and a browser keeps it from the page
    if is_allowed:
        assert answer.status_code == 200
    else:
        check_error(answer, 403, "origin_not_allowed")


def test_all_origins_may_be_allowed(run_server: Callable[..., Any]) -> None:
    server = run_server(ServerOptions(cors_origins=("*",)))
    with server.client(headers={"Origin": "https://any.example"}) as client:
        assert server.ask(client).status_code == 200


@pytest.mark.parametrize("path", ["/v1/models", "/health", "/metrics", "/", "/no/such/path"])
def test_no_answer_is_guessed_to_be_something_else(client: httpx.Client, path: str) -> None:
    assert client.get(path).headers.get_list("x-content-type-options") == ["nosniff"]


def test_the_log_contains_no_client_data(
    guarded: Any, caplog: pytest.LogCaptureFixture, ask_user: Any, data_uri: Any
) -> None:
    caplog.set_level(logging.DEBUG)
    url = data_uri(seed=31)
    with guarded.client(headers={"Authorization": f"Bearer {KEY}"}) as client:
        assert guarded.ask(client, messages=[ask_user("my secret question", url)]).status_code == 200
        assert guarded.ask(client, messages=[ask_user("my secret question", "data:secret")]).status_code == 400
        assert client.get("/my/secret/path?key=secret").status_code == 404
        wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"secret": "secret"}}}
        assert guarded.ask(client, response_format=wanted).status_code == 400
    logged = [record.getMessage() for record in caplog.records if record.name.startswith("edge_llava")]
    assert sum("POST /v1/chat/completions 200" in line for line in logged) == 1
    assert any("GET (no such path) 404" in line for line in logged)
    for line in logged:
        assert "secret" not in line
        assert KEY not in line
        assert url[30:60] not in line
