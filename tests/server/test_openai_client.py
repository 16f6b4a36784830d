"""OpenAI's own Python client, unchanged, against a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest

from edge_llava.server.server_options import ServerOptions

KEY = "sk-a-key-of-the-tests"


@pytest.fixture(scope="module")
def guarded(run_server: Callable[..., Any]) -> Any:
    """A server with a key, which answers to OpenAI's names."""
    return run_server(ServerOptions(api_key=KEY, aliases=("gpt-4o",)))


@pytest.fixture
def openai_client(guarded: Any) -> Iterator[openai.OpenAI]:
    """OpenAI's client."""
    with openai.OpenAI(base_url=f"{guarded.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


@asynccontextmanager
async def connect(server: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's asynchronous client."""
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def test_an_answer_about_a_picture(openai_client: openai.OpenAI, ask_user: Any, data_uri: Any) -> None:
    answer = openai_client.chat.completions.create(
        model="gpt-4o", messages=[ask_user("What?", data_uri(seed=20))], max_tokens=6, temperature=0, seed=1
    )
    assert answer.model == "gpt-4o"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 6
    assert answer.usage.prompt_tokens > 64
    assert answer.usage.prompt_tokens_details is not None
    assert answer._request_id is not None
    assert answer._request_id.startswith("req_")
    assert answer.choices[0].message.content


def test_a_stream_says_what_the_whole_answer_says(openai_client: openai.OpenAI, ask_user: Any, data_uri: Any) -> None:
    wanted: dict[str, Any] = {
        "model": "gpt-4o", "messages": [ask_user("What?", data_uri(seed=21))], "max_completion_tokens": 40,
        "temperature": 0,
    }  # fmt: skip
    whole = openai_client.chat.completions.create(**wanted)
    with openai_client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **wanted) as stream:
        chunks = list(stream)
    assert {(chunk.id, chunk.object, chunk.model) for chunk in chunks} == {
        (chunks[0].id, "chat.completion.chunk", "gpt-4o")
    }
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [len(chunk.choices) for chunk in chunks] == [1] * (len(chunks) - 1) + [0]
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks[:-1]]
    assert sum(map(bool, texts)) > 10
    assert "".join(texts) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + ["length"]
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    usage = chunks[-1].usage
    assert usage is not None
    assert whole.usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (whole.usage.prompt_tokens, 40)


def test_a_stream_without_usage(openai_client: openai.OpenAI, ask_user: Any) -> None:
    with openai_client.chat.completions.create(
        model="gpt-4o", messages=[ask_user("What?")], stream=True, max_tokens=3
    ) as stream:
        chunks = list(stream)
    assert all(len(chunk.choices) == 1 for chunk in chunks)
    assert all("usage" not in chunk.model_fields_set for chunk in chunks)


def test_the_asynchronous_client(guarded: Any, ask_user: Any, data_uri: Any) -> None:
    async def ask(client: openai.AsyncOpenAI, seed: int) -> tuple[str, str]:
        wanted: dict[str, Any] = {
            "model": "gpt-4o", "messages": [ask_user("What?", data_uri(seed=seed))], "max_tokens": 12, "temperature": 0,
        }  # fmt: skip
        whole = await client.chat.completions.create(**wanted)
        stream = await client.chat.completions.create(stream=True, **wanted)
        texts = [chunk.choices[0].delta.content or "" async for chunk in stream]
        return whole.choices[0].message.content or "", "".join(texts)

    async def ask_all() -> list[tuple[str, str]]:
        async with connect(guarded) as client:
            return await asyncio.gather(*(ask(client, seed) for seed in range(6)))

    for whole, streamed in asyncio.run(ask_all()):
        assert whole
        assert whole == streamed


def test_structured_output(openai_client: openai.OpenAI, ask_user: Any) -> None:
    pydantic = pytest.importorskip("pydantic")
    scene = pydantic.create_model(
        "Scene",
        colour=(str, pydantic.Field(json_schema_extra={"enum": ["red", "blue"]})),
        boxes=(list[pydantic.create_model("Box", x=(int, ...), name=(str | None, ...))], pydantic.Field(max_length=2)),
    )
    answer = openai_client.chat.completions.create(
        model="gpt-4o",
        messages=[ask_user("What?")],
        temperature=0,
        response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": scene.model_json_schema()}},
    )
    # noise may fill the context with the name of a box before it closes it
    assert answer.choices[0].message.content is not None
    if answer.choices[0].finish_reason == "stop":
        scene.model_validate_json(answer.choices[0].message.content)
    mode = openai_client.chat.completions.create(
        model="gpt-4o", messages=[ask_user("What?")], max_tokens=400, seed=3, response_format={"type": "json_object"}
    )
    if mode.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(mode.choices[0].message.content or ""), dict)


def test_errors_are_the_clients_own(guarded: Any, openai_client: openai.OpenAI, ask_user: Any) -> None:
    create = openai_client.chat.completions.create
    with pytest.raises(openai.BadRequestError) as bad:
        create(model="gpt-4o", messages=[ask_user("What?")], temperature=5)
    assert (bad.value.param, bad.value.code, bad.value.type) == (
        "temperature",
        "invalid_value",
        "invalid_request_error",
    )
    with pytest.raises(openai.NotFoundError) as missing:
        create(model="gpt-5", messages=[ask_user("What?")])
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError):
        create(model="gpt-4o", messages=[ask_user("What?", "data:image/png;base64,AAAA")], stream=True)
    with (
        openai.OpenAI(base_url=f"{guarded.url}/v1", api_key="sk-another-key", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError) as wrong,
    ):
        stranger.models.list()
    assert wrong.value.code == "invalid_api_key"


def test_models(openai_client: openai.OpenAI, engine: Any) -> None:
    assert [model.id for model in openai_client.models.list()] == ["gpt-4o", engine.bundle.name]
    assert openai_client.models.retrieve("gpt-4o").owned_by == "edge-llava"
