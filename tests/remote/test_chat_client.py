"""A model behind a real HTTP server on this machine that replies, refuses, babbles, hangs and hides."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from email.utils import formatdate
from itertools import pairwise
from typing import Any

import pytest

from edge_llava.errors import DataError, MissingExtra
from edge_llava.remote.chat_client import ChatClient, ChatOptions, ChatReply, Fault

KEY = "sk-very-secret"
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is it?"}]


@pytest.fixture
def ask(server) -> Iterator[Callable[..., ChatReply]]:
    """ask(temperature, **fields of ChatOptions) -> the reply."""
    with ExitStack() as stack:

        def reply(temperature: float | None = None, **options: Any) -> ChatReply:
            quick = {"first_wait_s": 0.01, "n_tries": 4, "timeout_s": 5.0}
            chat = ChatOptions(**({"url": server.url, "model": "m"} | quick | options))
            return stack.enter_context(ChatClient(chat)).ask(MESSAGES, temperature=temperature)

        yield reply


def test_what_is_asked_and_what_comes_back(server, ask):
    assert ask(key=KEY) == ChatReply("Good.", None, 100, 20)
    (request,) = server.requests
    assert request.path == "/v1/chat/completions"
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    assert request.body == {"model": "m", "messages": MESSAGES}
    ask(temperature=0.0, url=f"{server.url}/")
    assert server.requests[1].path == "/v1/chat/completions"
    assert server.requests[1].body["temperature"] == 0.0
    assert "Authorization" not in server.requests[1].headers


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 599])
def test_tries_again_where_it_may_help(server, ask, status):
    server.behave = lambda request, i: server.say("Good.") if i == 2 else server.send("later", status)
    assert ask().fault is None
    assert len(server.requests) == 3
    server.behave = lambda request, i: server.send("later", status)
    assert ask() == ChatReply("", Fault("no reply", f"status {status}: later (4 tries)"))
    assert len(server.requests) == 7


@pytest.mark.parametrize("status", [301, 401, 402, 403, 404, 405])
def test_gives_up_at_once_and_reports_the_servers_message(server, ask, status):
    body = {"error": {"message": f"Incorrect key {KEY}\n\x1b[31mprovided", "type": "x"}}
    server.behave = lambda request, i: server.send(body, status)
    with pytest.raises(DataError) as caught:
        ask(key=KEY)
    assert str(caught.value).startswith(f"{server.url} refuses, status {status}: Incorrect key *** [31mprovided.")
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_request_that_the_server_minds_is_not_repeated(server, ask, status):
    server.behave = lambda request, i: server.send({"error": "content filter"}, status)
    assert ask() == ChatReply("", Fault("no reply", f"status {status}: content filter"))
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [
        (lambda: "0.3", 0.3, 0.5),
        (lambda: "7200", 0.6, 0.9),  # max_wait_s
        (lambda: "inf", 0.6, 0.9),
        (lambda: formatdate(time.time() + 3600, usegmt=True), 0.6, 0.9),
        (lambda: formatdate(time.time() - 3600, usegmt=True), 0.0, 0.2),
        (lambda: "soon", 0.0, 0.2),
        (lambda: "-5", 0.0, 0.2),
        (lambda: "nan", 0.0, 0.2),
    ],
)
def test_waits_as_long_as_the_server_asks_up_to_a_bound(server, ask, value, low, high):
    server.behave = lambda request, i: (
        server.say("Good.") if i else server.send("slow down", 429, headers={"Retry-After": value()})
    )
    assert ask(max_wait_s=0.6).fault is None
    first, second = (request.at_s for request in server.requests)
    assert low <= second - first < high + 1, "a second for a busy machine"


def test_waits_longer_from_try_to_try(server, ask):
    server.behave = lambda request, i: server.send("later", 500)
    ask(first_wait_s=0.1, n_tries=4)
    gaps = [b.at_s - a.at_s for a, b in pairwise(server.requests)]
    assert [gap > least for gap, least in zip(gaps, (0.05, 0.1, 0.2), strict=True)] == [True] * 3


def test_a_server_that_hangs(server, ask):
    server.behave = lambda request, i: server.send("", wait_s=1.0)
    started = time.monotonic()
    assert ask(timeout_s=0.1, n_tries=2) == ChatReply("", Fault("no reply", "no reply within 0.1 s (2 tries)"))
    assert time.monotonic() - started < 0.9


def test_a_server_that_drips(server, ask):
    server.behave = lambda request, i: server.send("x" * 100, drip_s=0.05)
    started = time.monotonic()
    assert ask(timeout_s=0.3, n_tries=1).fault == Fault("no reply", "no reply within 0.3 s (1 try)")
    assert time.monotonic() - started < 3, "the whole reply takes five seconds"


def test_no_server(server, ask):
    detail = ask(url="http://127.0.0.1:9/v1", n_tries=2).fault.detail
    assert detail.startswith("no connection: ")
    assert detail.endswith(" (2 tries)")


def test_a_connection_that_breaks(server, ask):
    server.behave = lambda request, i: (
        server.say("Good.") if i else server.send("cut", headers={"Content-Length": "1000"})
    )
    assert ask(timeout_s=1.0).fault is None
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "body",
    [
        "", "<html>Bad gateway</html>", "[]", "{}", "null", '"text"', "[" * 100_000, b"\xff\xfe\x00",
        '{"choices": []}', '{"choices": {}}', '{"choices": [{"message": null}]}', '{"choices": [{"message": {}}]}',
        '{"choices": [{"message": {"content": "x"}}], "usage": 3}',
    ],
)  # fmt: skip
def test_junk_is_kept_as_it_came(server, ask, body):
    server.behave = lambda request, i: server.send(body)
    text = body if isinstance(body, str) else body.decode("utf-8", "replace")
    assert ask() == ChatReply(text, Fault("junk", "not a chat completion"))
    assert len(server.requests) == 1


@pytest.mark.parametrize("content", [None, ["A dog."], 7])
def test_a_completion_without_text_still_costs(server, ask, content):
    server.behave = lambda request, i: server.say(content)
    reply = ask()
    assert (reply.fault, reply.prompt_tokens, reply.completion_tokens) == (Fault("junk", "no text in it"), 100, 20)


def test_an_endless_reply_is_not_a_reply(server, ask):
    server.behave = lambda request, i: server.send("x" * (17 << 20))
    reply = ask(timeout_s=60.0)
    assert reply.fault == Fault("junk", "not a chat completion")
    assert len(reply.text) == 1 << 24


def test_a_reply_cut_off(server, ask):
    server.behave = lambda request, i: server.say("A dog on", "length")
    reply = ask()
    assert reply.text == "A dog on"
    assert reply.fault.kind == "cut off"


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": "9"}, {"prompt_tokens": True, "completion_tokens": -4}])
def test_tokens_that_were_not_counted(server, ask, usage):
    body = {"choices": [{"message": {"content": "A dog."}}], "usage": usage}
    server.behave = lambda request, i: server.send(body)
    assert ask() == ChatReply("A dog.", None, 0, 0)


@pytest.mark.parametrize(
    "url",
    ["", "example.org/v1", "ftp://a/v1", "http://", "http:///v1", "http://a/v1?key=x", "http://a/v1#x", "http://a b/v1",
     "http://me:secret@a/v1", "http://a:99999/v1", "http://[::1/v1", "file:///etc/passwd"],
)  # fmt: skip
def test_addresses_that_are_none(url):
    with pytest.raises(DataError, match="is not the address of a server") as caught:
        ChatClient(ChatOptions(url, "m"))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("key", ["", "a b", "a\nb", "schlüssel"])
def test_keys_that_are_none(key):
    with pytest.raises(DataError) as caught:
        ChatClient(ChatOptions("http://127.0.0.1/v1", "m", key))
    assert not key or key not in str(caught.value)


def test_name_contains_no_secret():
    with ChatClient(ChatOptions("http://127.0.0.1/v1", "gpt", KEY)) as client:
        assert client.name == "gpt at http://127.0.0.1/v1"


def test_httpx_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(MissingExtra, match=r"\[remote\]"):
        ChatClient(ChatOptions("http://127.0.0.1/v1", "m"))
