"""OpenAI's completions API: texts are continued as they are."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest

from edge_llava.bundle.templates import find_template


@pytest.fixture
def openai_client(server: Any) -> Iterator[openai.OpenAI]:
    """OpenAI's client."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def written(engine: Any) -> str:
    """A conversation with everything that the template adds, up to the answer."""
    template = find_template(engine.bundle.manifest.language.template.name)
    return f"{template.opening}What?{template.after_question}"


def test_the_template_is_not_added(
    openai_client: openai.OpenAI, client: httpx.Client, server: Any, written: str
) -> None:
    chat = server.ask(client, max_tokens=20, temperature=0).json()
    answer = openai_client.completions.create(model="default", prompt=written, max_tokens=20, temperature=0)
    (choice,) = answer.choices
    assert choice.text.lstrip() == chat["choices"][0]["message"]["content"]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == chat["usage"]["prompt_tokens"]
    assert (answer.object, choice.index, choice.finish_reason) == ("text_completion", 0, "length")
    assert answer.id.startswith("cmpl-")
    short = openai_client.completions.create(model="default", prompt=["What"], temperature=0)
    assert short.usage is not None
    assert short.usage.completion_tokens == 16
    assert short.usage.prompt_tokens < 6


def test_a_stream_has_the_same_text(openai_client: openai.OpenAI, written: str) -> None:
    wanted: dict[str, Any] = {"model": "default", "prompt": written, "max_tokens": 12, "temperature": 0}
    whole = openai_client.completions.create(**wanted)
    usage: Any = {"include_usage": True}
    chunks = list(openai_client.completions.create(stream=True, stream_options=usage, **wanted))
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == whole.choices[0].text
    assert {chunk.object for chunk in chunks} == {"text_completion"}
    assert [choice.finish_reason for chunk in chunks[-2:-1] for choice in chunk.choices] == ["length"]
    assert chunks[-1].usage == whole.usage
    assert chunks[-1].choices == []


def test_ollamas_raw_mode_is_the_same(client: httpx.Client, openai_client: openai.OpenAI, written: str) -> None:
    whole = openai_client.completions.create(model="default", prompt=written, max_tokens=9, temperature=0)
    wanted = {"prompt": written, "raw": True, "stream": False, "options": {"num_predict": 9, "temperature": 0}}
    answer = client.post("/api/generate", json=wanted).json()
    assert answer["response"] == whole.choices[0].text
    assert answer["prompt_eval_count"] == whole.usage.prompt_tokens if whole.usage else False


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"), ({"prompt": None}, "prompt"), ({"prompt": 5}, "prompt"), ({"prompt": []}, "prompt"),
        ({"prompt": ["a", "b"]}, "prompt"), ({"prompt": [1, 2]}, "prompt"), ({"prompt": [[1]]}, "prompt[0]"),
        ({"prompt": "x", "echo": True}, "echo"), ({"prompt": "x", "suffix": "y"}, "suffix"),
        ({"prompt": "x", "best_of": 2}, "best_of"), ({"prompt": "x", "n": 2}, "n"),
        ({"prompt": "x", "logprobs": 21}, "logprobs"), ({"prompt": "x", "max_tokens": "y"}, "max_tokens"),
        ({"prompt": "x \ud800"}, "prompt"), ({"prompt": "x " * 2000}, "prompt"),
    ],
)  # fmt: skip
def test_what_is_refused(
    client: httpx.Client, check_error: Callable[..., Any], fields: dict[str, Any], param: str
) -> None:
    body = json.dumps(fields).encode()  # with lone surrogates, which httpx would not write
    answer = client.post("/v1/completions", content=body, headers={"Content-Type": "application/json"})
    check_error(answer, 400, param=param)
