"""Forms of requests that clients of other servers send, and that have only one meaning."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import httpx
import pytest

from edge_llava.server.http.errors import RequestError
from edge_llava.server.http.limits import Limits
from edge_llava.server.http.request_body import parse_body
from edge_llava.server.images.image_address import ImageAddress
from edge_llava.server.images.image_data import ImageDataError, decode_image_data
from edge_llava.server.ollama.request import OllamaChatRequest
from edge_llava.server.openai.chat_request import ChatRequest
from edge_llava.server.openai.conversation import ChatMessage
from edge_llava.server.openai.generation import GenerationRequest, ParsedRequest, read_request
from edge_llava.server.openai.image_parts import IMAGE_TYPES
from edge_llava.server.openai.request_model import Rules
from edge_llava.server.openai.responses_request import ResponsesRequest

HELLO = {"role": "user", "content": "Hello"}
IMAGE = "data:image/png;base64,AAAA"


def read(strict: bool = False, **fields: object) -> ParsedRequest:
    return read_request(ChatRequest, {"messages": [HELLO], **fields}, Rules(strict), Limits())


def read_as(model: type[GenerationRequest], **fields: object) -> ParsedRequest:
    return read_request(model, fields, Rules(), Limits())


def parts_of(*content: object) -> list[object]:
    """The parts of a message; images as their URLs."""
    (message,) = read(strict=True, messages=[{"role": "user", "content": [*content]}]).messages
    return [part.url if isinstance(part, ImageAddress) else part for part in message.parts]


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (["What is it?", {"type": "image_url", "image_url": IMAGE}], ["What is it?", IMAGE]),
        ([{"text": "What?"}, {"image_url": {"url": IMAGE}}], ["What?", IMAGE]),
        ([{"type": None, "text": "What?", "image_url": None}], ["What?"]),
        ([None, {"type": "text", "text": None}, {"type": "input_text", "text": "What?"}], ["What?"]),
        ([{"type": "image", "image": {"url": IMAGE}}], [IMAGE]),
        ([{"type": "image_base64", "image_base64": "AAAA"}], ["AAAA"]),
        ([{"type": "file", "file": {"file_data": IMAGE, "filename": "a.png"}}], [IMAGE]),
        ([{"type": "file", "mediaType": "image/png", "data": "AAAA"}], ["AAAA"]),
        ([{"type": "input_file", "filename": "a.png", "file_data": IMAGE}], [IMAGE]),
        ([{"type": "media", "mime_type": "image/png", "data": "AAAA"}], ["AAAA"]),
        ([], []),
    ],
)
def test_parts(content: list[object], parts: list[object]) -> None:
    assert parts_of(*content) == parts


@pytest.mark.parametrize(
    "part", [5, [], {}, {"type": None}, {"type": "text"}, {"type": 5, "text": "x"}, {"image": "x"}]
)
def test_other_parts_are_refused(part: object) -> None:
    with pytest.raises(RequestError) as caught:
        parts_of("x", part)
    assert caught.value.body["error"]["param"].startswith("messages[0].content[1]")


@pytest.mark.parametrize("kind", IMAGE_TYPES)
@pytest.mark.parametrize(
    "value", ["x", {}, {"a": "x"}, {"url": {}}, {"data": {}}, {"file_id": "x"}, [], ["x"], 5, None]
)
def test_no_image_is_dropped_in_silence(kind: str, value: object) -> None:
    """Whatever a part for an image contains, the image is read or a fault is found."""
    for key in ("image_url", "image", "data", "source", "url", "base64", "file", "file_data", "file_url", kind):
        with suppress(RequestError):
            assert len(parts_of("What?", {"type": kind, key: value})) == 2


@pytest.mark.parametrize("key", ["image", "image_url", "image_data", "image_base64"])
@pytest.mark.parametrize("value", ["AAAA", {"url": IMAGE}, [{"data": "AAAA", "id": 1}]])
def test_no_image_is_dropped_where_it_is_not_read(key: str, value: object) -> None:
    text = {"type": "text", "text": "x"}
    requests: list[dict[str, object]] = [
        {key: value},
        {"messages": [HELLO | {key: value}]},
        {"messages": [{"role": "user", "content": [text | {key: value}]}]},
        {"messages": [{"role": "user", "content": [{"type": None, "text": "x", key: value}]}]},
    ]
    for fields in requests:
        with pytest.raises(RequestError) as caught:
            read(**fields)
        assert key in caught.value.body["error"]["message"]
    for empty in (None, "", [], {}):
        read(**{key: empty}, messages=[HELLO | {key: empty}, {"role": "user", "content": [text | {key: empty}]}])
    with pytest.raises(RequestError):
        read(messages=[HELLO | {"experimental_attachments": [{"url": IMAGE}]}])


def test_a_body_may_begin_with_a_byte_order_mark() -> None:
    assert parse_body(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}
    with pytest.raises(RequestError):
        parse_body('{"a": 1}'.encode("utf-16"))


def test_a_file_that_is_not_an_image_is_refused(client: httpx.Client, server: Any, check_error: Any) -> None:
    part = {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0xLjcK", "filename": "a.pdf"}}
    answer = server.ask(client, messages=[{"role": "user", "content": ["What?", part]}])
    check_error(answer, 400, "invalid_image", "messages[0].content[1].file.file_data")


def test_a_system_message_alone_is_the_question() -> None:
    one, two = ({"role": role, "content": text} for role, text in (("system", "Be brief."), ("developer", "Say hi.")))
    assert read(messages=[one]).messages == (ChatMessage("user", ("Be brief.",)),)
    assert read(messages=[one, two]).messages == (
        ChatMessage("system", ("Be brief.",)), ChatMessage("user", ("Say hi.",)),
    )  # fmt: skip


def test_whole_numbers_may_be_floats() -> None:
    options = read(max_tokens=4.0, top_k=40.0, seed=7.0, n=1.0, logprobs=True, top_logprobs=2.0).options
    assert (options.max_new_tokens, options.top_k, options.seed, options.logprobs) == (4, 40, 7, 2)
    assert all(type(value) is int for value in (options.max_new_tokens, options.top_k, options.seed))
    for wrong in (4.5, float("inf"), 1e300):
        with pytest.raises(RequestError):
            read(max_tokens=wrong)


@pytest.mark.parametrize(
    ("fields", "n"),
    [({"n_predict": 5}, 5), ({"max_new_tokens": 5}, 5), ({"n_predict": -1, "max_tokens": 6, "max_new_tokens": 9}, 6)],
)
def test_limits_of_tokens_by_other_names_hold(fields: dict[str, object], n: int) -> None:
    request = read(strict=True, **fields)
    assert request.options.max_new_tokens == n


def test_stop_texts_by_other_names_hold_and_empty_ones_do_not() -> None:
    both = read(strict=True, stop=["a", "", None, "b"], stopping_strings=["b", "c"], stop_sequences="d")
    assert both.options.stop == ("a", "b", "c", "d")
    assert read(stop="").options.stop == read(stop=[""]).options.stop == ()


@pytest.mark.parametrize(
    "field",
    [
        "include_stop_str_in_output", "return_full_text", "return_tokens_as_token_ids", "use_beam_search", "regex",
        "ebnf", "stop_token_ids",
    ],
)  # fmt: skip
def test_what_would_change_the_answers_form_is_not_ignored(field: str) -> None:
    value: object = "[0-9]" if field in ("regex", "ebnf") else [2] if field == "stop_token_ids" else True
    with pytest.raises(RequestError) as caught:
        read(**{field: value})
    assert caught.value.body["error"]["param"] == field
    assert replace(read(**{field: None}), salt="") == read()


def test_biases_as_llama_cpp_has_them() -> None:
    assert read(logit_bias=[]).options.logit_bias == ()
    assert read(logit_bias=[[5, 1.5], [7, False]]).options.logit_bias == ((5, 1.5), (7, -100.0))
    for wrong in ([5], [[5]], [["a", 1]], [[5, 101]], [[5, True]], [[-1, 1]], [[None, 1]], [[5, 1]] * 1025):
        with pytest.raises(RequestError):
            read(logit_bias=wrong)


def test_the_largest_min_p_keeps_the_likeliest_token() -> None:
    assert read(min_p=1).options.min_p == 0.999


def test_an_image_with_two_heads_is_read() -> None:
    assert decode_image_data(f"data:image/jpeg;base64,{IMAGE}", 10) == b"\0\0\0"
    with pytest.raises(ImageDataError):
        decode_image_data("data:," * 100_000 + "AAAA", 10**6)


def test_a_history_of_responses_is_read_without_its_calls() -> None:
    call = {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "1", "output": "5"}
    answer = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Five."}]}
    search = {"type": "web_search_call", "id": "ws_1", "status": "completed"}
    found = read_as(ResponsesRequest, input=[HELLO | {"type": None}, call, result, search, answer, HELLO])
    assert [message.role for message in found.messages] == ["user", "assistant", "user"]
    assert found.ignored == ("input[].type",)
    with pytest.raises(RequestError):  # it is part of the conversation, and is not kept here
        read_as(ResponsesRequest, input=[{"type": "item_reference", "id": "msg_1"}, HELLO])
    assert read_as(ResponsesRequest, input="x", previous_response_id="", conversation={}).messages


@pytest.mark.parametrize("think", ["false", "none", "off", "", False, None])
def test_ollamas_think_may_be_switched_off_in_words(think: object) -> None:
    read_as(OllamaChatRequest, messages=[HELLO], think=think)
    with pytest.raises(RequestError):
        read_as(OllamaChatRequest, messages=[HELLO], think="low")


def test_probabilities_of_a_text_completion(client: httpx.Client, server: Any) -> None:
    wanted = {"prompt": "What", "max_tokens": 6, "temperature": 0, "logprobs": 2}
    whole = client.post("/v1/completions", json=wanted).json()["choices"][0]
    found = whole["logprobs"]
    assert set(found) == {"tokens", "token_logprobs", "top_logprobs", "text_offset"}
    assert {len(column) for column in found.values()} == {6}
    assert found["text_offset"][0] == 0
    assert found["text_offset"][3] == len("".join(found["tokens"][:3]))
    for token, logprob, top in zip(found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True):
        assert len(top) <= 2  # two tokens may have the same text
        assert top[token] == logprob == max(top.values())  # greedily, the likeliest
    with client.stream("POST", "/v1/completions", json=wanted | {"stream": True}) as answer:
        lines = [line[6:] for line in answer.iter_lines() if line.startswith("data: {")]
    choices = [httpx.Response(200, text=line).json()["choices"][0] for line in lines]
    for name in ("tokens", "text_offset", "token_logprobs"):
        streamed = [item for choice in choices if choice["logprobs"] for item in choice["logprobs"][name]]
        # cached positions are reused, with other rounding
        assert streamed == (pytest.approx(found[name], abs=1e-5) if name == "token_logprobs" else found[name])
    none = client.post("/v1/completions", json=wanted | {"logprobs": 0}).json()["choices"][0]["logprobs"]
    assert (none["tokens"], none["top_logprobs"]) == (found["tokens"], [{}] * 6)
    few = client.post("/v1/completions", json={"prompt": "What", "n_predict": 3}).json()
    assert few["usage"]["completion_tokens"] == 3
