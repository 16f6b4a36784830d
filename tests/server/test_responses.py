"""OpenAI's Responses API: its own Python client, and the shapes of photo programs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import Response

from edge_llava.server.http.limits import Limits
from edge_llava.server.openai.generation import read_request
from edge_llava.server.openai.request_model import Rules
from edge_llava.server.openai.responses_request import ResponsesRequest

EVENTS = [
    "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
    "response.output_text.delta", "response.output_text.done", "response.content_part.done",
    "response.output_item.done", "response.incomplete",
]  # fmt: skip
FORM: Any = {
    "type": "json_schema", "name": "scene", "strict": True,
    "schema": {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"]},
}  # fmt: skip


@pytest.fixture
def openai_client(server: Any) -> Iterator[openai.OpenAI]:
    """OpenAI's client."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def items(text: str, *urls: str) -> list[dict[str, Any]]:
    """A user's message as the Responses API has it."""
    images = [{"type": "input_image", "image_url": url, "detail": "auto"} for url in urls]
    return [{"role": "user", "content": [{"type": "input_text", "text": text}, *images]}]


def test_a_response_equals_the_chat_apis_answer(
    openai_client: openai.OpenAI, client: httpx.Client, server: Any, ask_user: Any, data_uri: Any
) -> None:
    url = data_uri(seed=60)
    messages = [{"role": "system", "content": "Be brief."}, ask_user("What?", url)]
    chat = server.ask(client, messages=messages, temperature=0, max_tokens=9).json()
    response = openai_client.responses.create(
        model="default", instructions="Be brief.", input=items("What?", url), temperature=0, max_output_tokens=9,
        store=True,
    )  # fmt: skip
    assert response.output_text == chat["choices"][0]["message"]["content"]
    assert (response.object, response.status, response.error) == ("response", "incomplete", None)
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.model == server.app.models.name
    assert response.id.startswith("resp_")
    assert response.instructions == "Be brief."
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens) == (chat["usage"]["prompt_tokens"], 9)
    assert response.usage.total_tokens == chat["usage"]["prompt_tokens"] + 9
    Response.model_validate(response.model_dump(warnings=False))  # every field has OpenAI's type
    # the next turn holds the response's own items
    more = openai_client.responses.create(
        model="default", max_output_tokens=3, temperature=0,
        input=[*items("What?", url), *(item.model_dump() for item in response.output), *items("And now?")],
    )  # fmt: skip
    assert more.usage is not None
    assert more.usage.input_tokens > response.usage.input_tokens


def test_a_stream_has_openais_events_in_order(openai_client: openai.OpenAI, server: Any) -> None:
    wanted: dict[str, Any] = {"model": "default", "input": "What?", "temperature": 0, "max_output_tokens": 12}
    whole = openai_client.responses.create(**wanted)
    events: list[Any] = list(openai_client.responses.create(stream=True, **wanted))
    assert list(dict.fromkeys(event.type for event in events)) == EVENTS
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert len(deltas) > 5
    assert "".join(deltas) == whole.output_text
    done = {event.type: event for event in events}
    assert done["response.output_text.done"].text == whole.output_text
    assert done["response.content_part.done"].part.text == whole.output_text
    last = done["response.incomplete"].response
    assert last.output_text == whole.output_text
    assert last.usage is not None
    assert last.usage.output_tokens == 12
    assert done["response.created"].response.status == "in_progress"
    assert {event.response.id for event in events if hasattr(event, "response")} == {last.id}
    with openai_client.responses.stream(model="default", input="Colour?", text={"format": FORM}) as stream:
        final = stream.get_final_response()  # put together by the client
    assert final.status == "completed"
    assert json.loads(final.output_text)["colour"] in ("red", "blue")


def test_the_asynchronous_client_and_structured_output(server: Any, data_uri: Any) -> None:
    async def ask() -> Any:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            wanted: Any = items("Colour?", data_uri(seed=61))
            return await client.responses.create(model="default", input=wanted, text={"format": FORM})

    response = asyncio.run(ask())
    assert json.loads(response.output_text)["colour"] in ("red", "blue")
    assert response.status == "completed"
    assert response.text.format.name == "scene"


def test_photoprism_asks_through_the_responses_api(client: httpx.Client, data_uri: Any) -> None:
    """internal/ai/vision/engine_openai.go of photoprism/photoprism."""
    wanted = {
        "model": "default", "max_output_tokens": 20, "text": {"format": {"type": "json_object"}},
        "input": [
            {"role": "system", "content": [{"type": "input_text", "text": "You label images."}]},
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "Labels?"},
                    {"type": "input_image", "image_url": data_uri(seed=62), "detail": "low"},
                ],
            },
        ],
    }  # fmt: skip
    answer = client.post("/v1/responses", json=wanted).json()
    (message,) = answer["output"]
    (part,) = message["content"]
    assert part["type"] == "output_text"
    assert part["text"].startswith("{")


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({}, "input", "Missing required parameter: 'input'"),
        ({"input": 5}, "input", "must be a string or an array"),
        ({"input": []}, "input", "is empty"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role", "'assistant'"),
        ({"instructions": "x", "input": [5]}, None, "must be an object"),
        ({"instructions": "x", "input": [{"role": "user", "content": 5}]}, "input[0].content", "must be a string"),
        ({"input": "x", "previous_response_id": "resp_1"}, "previous_response_id", "no response is kept"),
        ({"input": "x", "conversation": "conv_1"}, "conversation", "no response is kept"),
        ({"input": "x", "background": True}, "background", "not supported"),
        ({"input": "x", "max_output_tokens": "many"}, "max_output_tokens", "must be an integer"),
        ({"input": "x", "temperature": -1}, "temperature", "at least 0"),
        ({"input": "x", "text": {"format": {"type": "xml"}}}, "text.format.type", "'json_schema'"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type", "does not support tools"),
        ({"input": "x", "tools": [{"type": "web_search"}]}, "tools", "support"),
    ],
)
def test_faults_are_named_by_their_own_places(
    client: httpx.Client, check_error: Callable[..., Any], fields: dict[str, Any], param: str | None, says: str
) -> None:
    error = check_error(client.post("/v1/responses", json=fields), 400, param=param)
    assert says in error["message"]
    if param is not None:
        assert f"'{param}'" in error["message"]


def test_ignored_fields_are_named(client: httpx.Client) -> None:
    wanted = {"input": "x", "max_output_tokens": 1, "truncation": "auto", "text": {"verbosity": "low"}, "mine": 1}
    answer = client.post("/v1/responses", json=wanted)
    assert answer.status_code == 200
    assert answer.headers["x-edge-llava-ignored"] == "text.verbosity, mine"


def test_a_broken_image_is_named_by_its_own_place(client: httpx.Client, check_error: Callable[..., Any]) -> None:
    wanted = {"instructions": "x", "input": items("What?", "data:image/png;base64,AAAA")}
    error = check_error(
        client.post("/v1/responses", json=wanted), 400, "invalid_image", "input[0].content[1].image_url"
    )
    assert "'input[0].content[1].image_url'" in error["message"]


def test_items_of_other_kinds() -> None:
    reasoning = {"type": "reasoning", "id": "rs_1", "summary": []}
    image = {"type": "input_image", "image_url": "AAAA"}
    items = [reasoning, {"role": "user", "content": [{"type": "input_text", "text": "x"}, image]}]
    wanted = read_request(ResponsesRequest, {"input": items, "truncation": "auto"}, Rules(), Limits())
    assert [(message.role, message.text) for message in wanted.messages] == [("user", "x")]
    assert wanted.ignored == ("input[].type",)
    assert wanted.messages[0].images[0].param == "input[1].content[1].image_url"


def test_a_failing_stream_ends_with_an_error(server: Any, openai_client: openai.OpenAI, client: httpx.Client) -> None:
    def cut() -> None:
        (stream,) = server.app.answers._streams
        stream.answer.cancel()

    with client.stream("POST", "/v1/responses", json={"input": "x", "stream": True, "temperature": 0}) as answer:
        lines = answer.iter_lines()
        next(line for line in lines if "output_text.delta" in line)
        cut()
        rest = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert [event["type"] for event in rest[-2:]] == ["error", "response.failed"]
    assert rest[-1]["response"]["status"] == "failed"
    assert rest[-1]["response"]["error"]["code"] == "server_error"
    events = iter(openai_client.responses.create(model="default", input="x", stream=True, temperature=0))
    while next(events).type != "response.output_text.delta":
        pass
    cut()
    with pytest.raises(openai.APIError, match="shutting down"):
        list(events)
