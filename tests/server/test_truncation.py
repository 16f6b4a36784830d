"""Conversations longer than the context are refused, or answered without their oldest turns."""

from __future__ import annotations

from typing import Any

import pytest

HEADER = "x-edge-llava-dropped-turns"


@pytest.fixture(scope="module")
def narrow(make_engine: Any, run_server: Any) -> Any:
    """A server whose context has 256 positions."""
    return run_server(engine=make_engine(n_ctx=256, parallel=1))


def talk(first: dict[str, Any], numbers: Any) -> list[dict[str, Any]]:
    """An image's question, and many that follow it, the last without an answer."""
    messages = [{"role": "system", "content": "Be brief."}, first, {"role": "assistant", "content": "A square."}]
    for n in numbers:
        messages += [{"role": "user", "content": f"Question {n}?"}, {"role": "assistant", "content": f"Answer {n}."}]
    return messages[:-1]


def test_the_oldest_turns_go(narrow: Any, ask_user: Any, data_uri: Any, check_error: Any) -> None:
    first, options = ask_user("What is it?", data_uri()), {"temperature": 0, "max_tokens": 8}
    with narrow.client() as client:
        long = talk(first, range(20))
        for refused in ({}, {"truncation": "disabled"}, {"truncation": None}):
            check_error(narrow.ask(client, messages=long, **options, **refused), 400, "context_length_exceeded")
        answer = narrow.ask(client, messages=long, **options, truncation="auto")
        n_dropped = int(answer.headers[HEADER])
        assert 5 < n_dropped < 19
        short = narrow.ask(client, messages=talk(first, range(n_dropped, 20)), **options)
        assert HEADER not in short.headers
        assert answer.json()["choices"] == short.json()["choices"]
        assert answer.json()["usage"]["prompt_tokens"] == short.json()["usage"]["prompt_tokens"] <= 248
        assert answer.json()["usage"]["completion_tokens"] == 8
        assert answer.json()["usage"]["prompt_tokens_details"]["image_tokens"] == 64
        stream = narrow.ask(client, messages=long, **options, truncation="auto", stream=True)
        assert stream.headers[HEADER] == str(n_dropped)
        assert HEADER not in narrow.ask(client, truncation="auto").headers


def test_the_servers_option(narrow: Any, ask_user: Any, data_uri: Any, check_error: Any) -> None:
    long = talk(ask_user("What is it?", data_uri()), range(20))
    narrow.engine.on_full = "drop-oldest"
    try:
        with narrow.client() as client:
            assert HEADER in narrow.ask(client, messages=long).headers
            check_error(narrow.ask(client, messages=long, truncation="disabled"), 400, "context_length_exceeded")
            check_error(narrow.ask(client, messages=[ask_user("word " * 300)]), 400, "context_length_exceeded")
            megabytes = [{"role": "user", "content": "a" * 200_000}, {"role": "assistant", "content": "b"}, *long[1:]]
            assert narrow.ask(client, messages=megabytes).status_code == 200
    finally:
        narrow.engine.on_full = "error"


def test_other_words(narrow: Any, check_error: Any) -> None:
    with narrow.client() as client:
        check_error(narrow.ask(client, truncation="middle"), 400, None, "truncation")


def test_responses(narrow: Any, ask_user: Any) -> None:
    body = {"input": talk(ask_user("Who?"), range(20))[1:], "max_output_tokens": 2, "temperature": 0}
    body["input"][0]["content"] = "Who?"
    with narrow.client() as client:
        assert client.post("/v1/responses", json=body).status_code == 400
        answer = client.post("/v1/responses", json=body | {"truncation": "auto"})
        assert answer.status_code == 200, answer.text
        assert int(answer.headers[HEADER]) > 0
        assert answer.json()["truncation"] == "auto"
        assert "x-edge-llava-ignored" not in answer.headers
