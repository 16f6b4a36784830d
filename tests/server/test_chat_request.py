"""A chat request is validated by hand: every wrong field is named, and nothing that is asked for is ignored."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_llava.server.chat_messages import ChatMessage, ImageAddress
from edge_llava.server.chat_request import ChatRequest, read_chat_request
from edge_llava.server.limits import Limits
from edge_llava.server.openai_errors import RequestFault
from edge_llava.server.request_body import parse_body
from edge_llava.server.value_count import ValueCount

HELLO = {"role": "user", "content": "Hello"}


def read(**fields: object) -> ChatRequest:
    return read_chat_request({"messages": [HELLO], **fields}, Limits())


def fault(limits: Limits | None = None, **fields: object) -> dict[str, str]:
    with pytest.raises(RequestFault) as caught:
        read_chat_request({"messages": [HELLO], **fields}, limits or Limits())
    assert caught.value.status == 400
    return caught.value.body["error"]


def test_defaults_are_llavas() -> None:
    request = read()
    assert request.messages == (ChatMessage("user", "Hello"),)
    assert (request.model, request.stream, request.include_usage) == (None, False, False)
    options = request.options
    assert (options.temperature, options.top_p, options.top_k, options.seed, options.stop) == (0.2, 1.0, 0, None, ())
    assert options.grammar is None
    assert options.max_new_tokens == 2**31 - 1


def test_everything_that_openai_has_of_sampling_arrives() -> None:
    options = read(
        temperature=1.5, top_p=0.5, top_k=7, min_p=0.1, repeat_penalty=1.1, seed=11, stop=["a", "b"], max_tokens=3
    ).options
    assert (options.temperature, options.top_p, options.top_k, options.min_p) == (1.5, 0.5, 7, 0.1)
    assert (options.repeat_penalty, options.seed, options.stop, options.max_new_tokens) == (1.1, 11, ("a", "b"), 3)
    assert read(stop="x").options.stop == ("x",)
    assert read(max_completion_tokens=9).options.max_new_tokens == 9
    assert read(top_p=0).options.top_p == 1e-6
    assert read(temperature=0).options.temperature == 0


@pytest.mark.parametrize(("seed", "drawn"), [(-1, 2**32 - 2), (2**32 - 1, 0), (2**63 - 1, (2**63 - 1) % (2**32 - 1))])
def test_every_seed_of_openai_is_one_of_llama_cpp(seed: int, drawn: int) -> None:
    assert read(seed=seed).options.seed == drawn


def test_parts_are_joined_and_pictures_keep_their_places() -> None:
    content = [
        {"type": "text", "text": "one"},
        {"type": "image_url", "image_url": {"url": "data:a", "detail": "low"}},
        {"type": "text", "text": "two"},
        {"type": "image_url", "image_url": {"url": "data:b"}},
    ]
    (message,) = read(messages=[{"role": "user", "content": content}]).messages
    assert message.text == "one\ntwo"
    assert message.images == (
        ImageAddress("data:a", "messages[0].content[1].image_url.url"),
        ImageAddress("data:b", "messages[0].content[3].image_url.url"),
    )


def test_neighbours_of_one_role_are_joined_and_developers_are_the_system() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:a"}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [picture]},
        {"role": "user", "content": "What?"},
        {"role": "assistant", "content": "A"},
        {"role": "assistant", "content": [{"type": "text", "text": "cat."}]},
        {"role": "user", "content": "Why?"},
    ]
    found = read(messages=messages).messages
    assert [(message.role, message.text, len(message.images)) for message in found] == [
        ("system", "Be brief.\nBe kind.", 0),
        ("user", "What?", 1),
        ("assistant", "A\ncat.", 0),
        ("user", "Why?", 0),
    ]


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"messages": None}, "messages", "invalid_type"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": "hi"}, "messages", "invalid_type"),
        ({"messages": ["hi"]}, "messages[0]", "invalid_type"),
        ({"messages": [{"content": "x"}]}, "messages[0].role", "missing_required_parameter"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", "invalid_type"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "invalid_type"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": 5, "content": "x"}]}, "messages[0].role", "invalid_type"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "unsupported_value"),
        ({"messages": [HELLO | {"mood": 1}]}, "messages[0].mood", "unknown_parameter"),
        ({"messages": [HELLO | {"content": "\ud800"}]}, "messages[0].content", "invalid_value"),
        ({"messages": [HELLO | {"content": []}]}, "messages[0].content", "invalid_value"),
        ({"messages": [HELLO | {"content": [{}]}]}, "messages[0].content[0].type", "missing_required_parameter"),
        ({"messages": [HELLO | {"content": [{"type": "text"}]}]}, "messages[0].content[0].text", None),
        ({"messages": [HELLO | {"content": [{"type": "input_audio"}]}]}, "messages[0].content[0].type", None),
        ({"messages": [HELLO | {"content": [{"type": "image_url"}]}]}, "messages[0].content[0].image_url", None),
        (
            {"messages": [HELLO | {"content": [{"type": "image_url", "image_url": "data:x"}]}]},
            "messages[0].content[0].image_url",
            "invalid_type",
        ),
        (
            {"messages": [HELLO | {"content": [{"type": "image_url", "image_url": {"url": 1}}]}]},
            "messages[0].content[0].image_url.url",
            "invalid_type",
        ),
        (
            {"messages": [{"role": "system", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, HELLO]},
            "messages[0].content[0].type",
            "unsupported_value",
        ),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages", "invalid_value"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages", "invalid_value"),
        ({"messages": [HELLO, {"role": "assistant", "content": "x"}]}, "messages", "invalid_value"),
        ({"messages": [HELLO, {"role": "system", "content": "x"}, HELLO]}, "messages", "invalid_value"),
        ({"model": 5}, "model", "invalid_type"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"stream": 1}, "stream", "invalid_type"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"stream": True, "stream_options": []}, "stream_options", "invalid_type"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage", "invalid_type"),
        ({"temperature": "hot"}, "temperature", "invalid_type"),
        ({"temperature": True}, "temperature", "invalid_type"),
        ({"temperature": 2.1}, "temperature", "invalid_value"),
        ({"temperature": -1}, "temperature", "invalid_value"),
        ({"temperature": 10**400}, "temperature", "invalid_value"),
        ({"top_p": 1.01}, "top_p", "invalid_value"),
        ({"seed": 1.5}, "seed", "invalid_type"),
        ({"seed": 2**70}, "seed", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": "4"}, "max_tokens", "invalid_type"),
        ({"max_tokens": 4, "max_completion_tokens": 4}, "max_tokens", "invalid_value"),
        ({"stop": 5}, "stop", "invalid_type"),
        ({"stop": ""}, "stop", "invalid_value"),
        ({"stop": ["a", 5]}, "stop", "invalid_type"),
        ({"stop": ["a", ""]}, "stop", "invalid_value"),
        ({"stop": ["a"] * 5}, "stop", "array_above_max_length"),
        ({"stop": "a" * 257}, "stop", "invalid_value"),
        ({"stop": ["\ud800"]}, "stop", "invalid_value"),
        ({"n": 2}, "n", "unsupported_value"),
        ({"n": 0}, "n", "invalid_value"),
        ({"user": 5}, "user", "invalid_type"),
        ({"metadata": []}, "metadata", "invalid_type"),
        ({"tools": [{"type": "function"}]}, "tools", "unsupported_parameter"),
        ({"tool_choice": "required"}, "tool_choice", "unsupported_parameter"),
        ({"functions": [{}]}, "functions", "unsupported_parameter"),
        ({"logprobs": True}, "logprobs", "unsupported_parameter"),
        ({"top_logprobs": 1}, "top_logprobs", "unsupported_parameter"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "unsupported_parameter"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "unsupported_parameter"),
        ({"presence_penalty": True}, "presence_penalty", "unsupported_parameter"),
        ({"modalities": ["audio"]}, "modalities", "unsupported_parameter"),
        ({"reasoning_effort": "high"}, "reasoning_effort", "unsupported_parameter"),
        ({"frobnicate": 1}, "frobnicate", "unknown_parameter"),
        ({"\ud800": 1}, "?", "unknown_parameter"),
        ({"response_format": "json"}, "response_format", "invalid_type"),
        ({"response_format": {}}, "response_format.type", "missing_required_parameter"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing_required_parameter"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
            "response_format.json_schema.name",
            "missing_required_parameter",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}},
            "response_format.json_schema.name",
            "invalid_value",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "cat"}}}},
            "response_format.json_schema.schema",
            "invalid_json_schema",
        ),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, object], param: str, code: str | None) -> None:
    error = fault(**fields)
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert error["code"] == code or code is None
    assert param.rpartition(".")[2] in error["message"]


def test_all_faults_come_at_once() -> None:
    error = fault(temperature="hot", seed="lucky", messages=[])
    assert error["message"].count("'") == 6
    for name in ("temperature", "seed", "messages"):
        assert f"'{name}'" in error["message"]


def test_of_thousands_of_faults_the_first_are_told() -> None:
    error = fault(messages=[{"role": "king", "content": "x"}] * 1000)
    assert "messages[9].role" in error["message"]
    assert "messages[10].role" not in error["message"]
    assert error["message"].endswith("and more.")


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 1, "logprobs": False, "top_logprobs": 0, "tools": [], "logit_bias": {}, "tool_choice": "none"},
        {"frequency_penalty": 0, "presence_penalty": 0.0, "modalities": ["text"], "user": "me", "store": False},
        {"temperature": None, "stop": None, "seed": None, "response_format": None, "stream": None, "n": None},
        {"response_format": {"type": "text"}, "metadata": {"a": "b"}, "service_tier": "auto"},
    ],
)
def test_what_asks_for_nothing_is_taken(fields: dict[str, object]) -> None:
    assert replace(read(**fields), salt="") == read()


@pytest.mark.parametrize(
    ("limits", "content", "says"),
    [
        (Limits(n_parts=3), [{"type": "text", "text": "x"}] * 4, "has 4 items; the limit is 3"),
        (Limits(text_chars=5), "x" * 6, "hold 6 characters; the limit is 5"),
        (Limits(n_images=1), [{"type": "image_url", "image_url": {"url": "x"}}] * 2, "hold 2 pictures; the limit is 1"),
    ],
)
def test_counts_are_limited(limits: Limits, content: object, says: str) -> None:
    assert says in fault(limits, messages=[{"role": "user", "content": content}])["message"]


def test_limits_are_positive() -> None:
    with pytest.raises(ValueError, match="n_parts must be above 0; image_bytes must be above 0"):
        Limits(n_parts=0, image_bytes=-1)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "Expecting value at line 1, column 1"),
        (b"{", "line 1, column 2"),
        (b"[]", "it is no object"),
        (b'"text"', "it is no object"),
        (b'{"a": NaN}', "a number that JSON does not have"),
        (b'{"a": ' + b"9" * 5000 + b"}", "a number that JSON does not have, or one that is too long"),
        (b'{"a": "\xff"}', "it is not UTF-8 (byte 7)"),
        (b"\xff\xfe{\x00}\x00", "it is not UTF-8 (byte 0)"),
        (b'{"a":' * 100_000, "it is nested too deeply"),
    ],
)
def test_what_is_no_json_is_said(body: bytes, says: str) -> None:
    with pytest.raises(RequestFault) as caught:
        parse_body(body)
    assert caught.value.status == 400
    assert caught.value.body["error"]["code"] == "invalid_json"
    assert says in str(caught.value)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_FIELDS = ("messages", "temperature", "stop", "seed", "stream", "stream_options", "response_format", "n", "tools")


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(_FIELDS) | st.text(), _JSON, max_size=6))
def test_any_object_is_read_or_refused(data: dict[str, object]) -> None:
    body = {"error": {"param": ""}}
    try:
        read_chat_request(json.loads(json.dumps(data)), Limits())
    except RequestFault as error:
        body = error.body
    assert body["error"]["param"] is not None
    json.dumps(body, ensure_ascii=False).encode()


def _n_values(value: object) -> int:
    """Values in a value: commas and opening brackets, an object's or array's first value being told by its bracket."""
    if isinstance(value, list):
        return 1 + max(0, len(value) - 1) + sum(map(_n_values, value))
    if isinstance(value, dict):
        return 1 + max(0, len(value) - 1) + sum(map(_n_values, value.values()))
    return 0


TEXTS = st.text(alphabet='",[{}]:\\/nu é')
TREES = st.recursive(
    st.none() | st.integers() | TEXTS,
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(TEXTS, inside, max_size=4),
)


@given(TREES, st.integers(1, 7))
@settings(max_examples=200, deadline=None)
def test_values_are_counted_outside_of_strings(tree: object, n_bytes: int) -> None:
    body, count = json.dumps(tree).encode(), ValueCount()
    total = sum(count.add(body[start : start + n_bytes]) for start in range(0, len(body), n_bytes))
    assert total == count.n_values == _n_values(tree)


def test_a_million_characters_of_text_are_few_values() -> None:
    limits = Limits()
    for text in (",", "[", '"', "\\", '{"a":'):
        content = [{"type": "text", "text": text * (32 // len(text))}] * 256
        body = json.dumps({"messages": [{"role": "user", "content": content}] * 117}).encode()
        count = ValueCount()
        count.add(body)
        assert count.n_values < limits.n_values
        assert len(read_chat_request(parse_body(body), limits).messages) == 1


def test_of_thousands_of_unknown_fields_the_first_are_told() -> None:
    message = fault(**{f"k{n}": 1 for n in range(50_000)})["message"]
    assert message.startswith("Unknown parameter: 'k0'. Unknown parameter: 'k1'.")
    assert message.endswith("'k9'. and more.")
