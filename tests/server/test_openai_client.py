"""OpenAI's own Python client, unchanged, against a real server."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest

from edge_llava.server.options import ServerOptions

KEY = "sk-a-key-of-the-tests"


@pytest.fixture(scope="module")
def guarded(run_server: Callable[..., Any]) -> Any:
    """A server with a key, and with OpenAI's names as aliases."""
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


def test_an_answer_about_an_image(openai_client: openai.OpenAI, ask_user: Any, data_uri: Any) -> None:
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


def test_probabilities_whole_and_streamed(openai_client: openai.OpenAI, engine: Any, ask_user: Any) -> None:
    wanted: dict[str, Any] = {
        "model": "gpt-4o", "messages": [ask_user("What?")], "max_tokens": 12, "temperature": 0, "logprobs": True,
        "top_logprobs": 3,
    }  # fmt: skip
    (choice,) = openai_client.chat.completions.create(**wanted).choices
    assert choice.logprobs is not None
    entries = choice.logprobs.content
    assert entries is not None
    assert len(entries) == 12
    for entry in entries:
        assert entry.bytes is not None
        assert entry.token == bytes(entry.bytes).decode("utf-8", "replace")
        assert [top.logprob for top in entry.top_logprobs] == sorted(t.logprob for t in entry.top_logprobs)[::-1]
        # greedily, the token is the likeliest; its own probability and that in the list are the same
        assert (entry.token, entry.logprob) == (entry.top_logprobs[0].token, entry.top_logprobs[0].logprob)
        assert sum(math.exp(top.logprob) for top in entry.top_logprobs) <= 1
    text = b"".join(bytes(entry.bytes or ()) for entry in entries).decode("utf-8", "replace")
    assert text.lstrip() == choice.message.content
    with openai_client.chat.completions.create(stream=True, **wanted) as stream:
        chunks = [chunk.choices[0] for chunk in stream]
    streamed = [entry for chunk in chunks if chunk.logprobs for entry in chunk.logprobs.content or ()]
    assert [entry.bytes for entry in streamed] == [entry.bytes for entry in entries]
    # cached positions were computed in other batches
    assert [entry.logprob for entry in streamed] == pytest.approx([entry.logprob for entry in entries], abs=1e-4)
    plain = openai_client.chat.completions.create(**wanted | {"logprobs": None, "top_logprobs": None})
    assert plain.choices[0].logprobs is None


def test_what_ended_the_answer_has_no_probabilities(openai_client: openai.OpenAI, ask_user: Any) -> None:
    wanted: dict[str, Any] = {
        "model": "gpt-4o", "messages": [ask_user("What?")], "max_tokens": 30, "seed": 5, "temperature": 1,
        "logprobs": True,
    }  # fmt: skip
    whole = openai_client.chat.completions.create(**wanted).choices[0].message.content or ""
    (choice,) = openai_client.chat.completions.create(**wanted, stop=whole[8:14]).choices
    assert choice.finish_reason == "stop"
    assert choice.message.content == whole[:8]
    assert choice.logprobs is not None
    shown = b"".join(bytes(entry.bytes or ()) for entry in choice.logprobs.content or ()).decode("utf-8", "replace")
    assert shown.lstrip().startswith(whole[:8])
    assert whole[8:14] not in shown


def test_an_answer_is_continued(openai_client: openai.OpenAI, ask_user: Any, data_uri: Any) -> None:
    question = ask_user("What?", data_uri(seed=31))
    create = openai_client.chat.completions.create
    whole = create(model="gpt-4o", messages=[question], max_tokens=16, temperature=0)
    first = create(model="gpt-4o", messages=[question], max_tokens=6, temperature=0)
    start = first.choices[0].message.content or ""
    for extra in ({}, {"continue_final_message": True, "add_generation_prompt": False}):
        rest = create(
            model="gpt-4o",
            messages=[question, {"role": "assistant", "content": [{"type": "text", "text": start}]}],
            max_tokens=10,
            temperature=0,
            extra_body=extra,
        )
        assert rest.usage is not None
        assert rest.usage.completion_tokens == 10
        if "\ufffd" not in start:
            assert start + (rest.choices[0].message.content or "") == whole.choices[0].message.content
        assert (rest.choices[0].message.content or "")[:2] != start[:2]


def test_penalties_change_an_answer(openai_client: openai.OpenAI, ask_user: Any) -> None:
    wanted: dict[str, Any] = {
        "model": "gpt-4o", "messages": [ask_user("What?")], "max_tokens": 60, "temperature": 0,
    }  # fmt: skip
    create = openai_client.chat.completions.create
    plain = create(**wanted).choices[0].message.content
    answers = [
        create(**wanted, **penalty).choices[0].message.content  # type: ignore[arg-type]
        for penalty in (
            {"frequency_penalty": 2},
            {"presence_penalty": -2},
            {"extra_body": {"repetition_penalty": 1.5}},
        )
    ]
    assert plain not in answers
    assert len(set(answers)) > 1
    same = create(**wanted, extra_body={"repeat_penalty": 1.5}).choices[0].message.content
    assert same == create(**wanted, extra_body={"repetition_penalty": 1.5}).choices[0].message.content


def test_errors_are_the_clients_own(guarded: Any, openai_client: openai.OpenAI, ask_user: Any) -> None:
    create = openai_client.chat.completions.create
    with pytest.raises(openai.BadRequestError) as bad:
        create(model="gpt-4o", messages=[ask_user("What?")], temperature=101)
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
