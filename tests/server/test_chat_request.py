"""A chat request is validated: every wrong field is named, and nothing requested is ignored silently."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from edge_llava.server.http.errors import RequestError
from edge_llava.server.http.json_value_counter import JsonValueCounter
from edge_llava.server.http.limits import Limits
from edge_llava.server.http.request_body import parse_body
from edge_llava.server.images.image_address import ImageAddress
from edge_llava.server.openai.chat_request import ChatRequest
from edge_llava.server.openai.content import MAX_PARTS
from edge_llava.server.openai.conversation import ChatMessage
from edge_llava.server.openai.generation import ParsedRequest, read_request
from edge_llava.server.openai.request_model import Rules

HELLO = {"role": "user", "content": "Hello"}


def read(strict: bool = False, **fields: object) -> ParsedRequest:
    return read_request(ChatRequest, {"messages": [HELLO], **fields}, Rules(strict), Limits())


def fault(limits: Limits | None = None, strict: bool = False, **fields: object) -> dict[str, str]:
    with pytest.raises(RequestError) as caught:
        read_request(ChatRequest, {"messages": [HELLO], **fields}, Rules(strict), limits or Limits())
    assert caught.value.status == 400
    return caught.value.body["error"]


def test_defaults_are_llavas() -> None:
    request = read()
    assert request.messages == (ChatMessage("user", ("Hello",)),)
    assert (request.model, request.stream, request.include_usage) == (None, False, False)
    options = request.options
    assert (options.temperature, options.top_p, options.top_k, options.seed, options.stop) == (0.2, 1.0, 0, None, ())
    assert (options.grammar, options.json_schema) == (None, None)
    assert options.max_new_tokens == 2**31 - 1


PENALTIES = {"frequency_penalty": 0.5, "presence_penalty": -2, "repetition_penalty": 1.05}


def test_penalties_biases_and_probabilities_arrive() -> None:
    options = read(**PENALTIES, logit_bias={"5": -100, "7": 1.5}, logprobs=True, top_logprobs=20).options
    assert (options.frequency_penalty, options.presence_penalty, options.repeat_penalty) == (0.5, -2, 1.05)
    assert (options.logit_bias, options.logprobs) == (((5, -100.0), (7, 1.5)), 20)
    assert read(logprobs=True).options.logprobs == 0
    assert read(logprobs=False).options.logprobs is None


@pytest.mark.parametrize(
    ("one", "other", "n"), [(4, 4, 4), (4, 9, 4), (9, 4, 4), (-1, 4, 4), (0, 4, 4), (4, None, 4), (0, -1, 2**31 - 1)]
)
def test_the_smaller_limit_of_tokens_holds(one: int, other: int | None, n: int) -> None:
    assert read(max_tokens=one, max_completion_tokens=other).options.max_new_tokens == n


def test_many_stops() -> None:
    stops = [f"\n{n}:" + "x" * 250 for n in range(32)]
    assert read(stop=stops).options.stop == tuple(stops)


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


@pytest.mark.parametrize(("seed", "sent"), [(-1, 2**32 - 2), (2**32 - 1, 0), (2**63 - 1, (2**63 - 1) % (2**32 - 1))])
def test_every_seed_of_openai_is_one_of_llama_cpp(seed: int, sent: int) -> None:
    assert read(seed=seed).options.seed == sent


def test_parts_are_joined_and_images_know_where_they_stand() -> None:
    content = [
        {"type": "text", "text": "one"},
        {"type": "image_url", "image_url": {"url": "data:a", "detail": "low"}},
        {"type": "text", "text": "two"},
    ]
    (message,) = read(messages=[{"role": "user", "content": content}]).messages
    assert (message.text, message.places) == ("one\ntwo", ())
    assert message.images == (ImageAddress("data:a", "messages[0].content[1].image_url.url"),)


IMAGE = {"type": "image_url", "image_url": {"url": "data:a"}}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


@pytest.mark.parametrize(
    ("content", "laid_out", "places"),
    [
        ([text("A:"), IMAGE, text("B:"), IMAGE, text("Which?")], "A:\nB:\nWhich?", (3, 6)),
        ([IMAGE, text("is A."), IMAGE, text("is B.")], "is A.\nis B.", (0, 6)),
        ([text("A:"), IMAGE, text("B:"), IMAGE], "A:\nB:\n", (3, 6)),
        ([IMAGE, IMAGE, text("one"), text("two"), IMAGE], "one\ntwo\n", (0, 0, 8)),
        # nothing stands between them: as in training
        ([text("Compare:"), IMAGE, IMAGE, text("Which?")], "Compare:\nWhich?", ()),
        ([IMAGE, text(""), IMAGE, text("Which?")], "Which?", ()),
        ([IMAGE, text(" \n"), IMAGE, text("Which?")], " \n\nWhich?", ()),
        ([text("A:"), IMAGE, text("?")], "A:\n?", ()),
    ],
)
def test_images_keep_their_places_where_text_stands_between_them(
    content: list[object], laid_out: str, places: tuple[int, ...]
) -> None:
    (message,) = read(messages=[{"role": "user", "content": content}]).messages
    assert (message.text, message.places) == (laid_out, places)
    assert len(message.images) == content.count(IMAGE)


def test_labels_in_messages_of_their_own_keep_their_images() -> None:
    labelled = [{"role": "user", "content": [text(f"Image {n}:"), IMAGE]} for n in (1, 2)]
    (message,) = read(messages=[*labelled, {"role": "user", "content": "Which?"}]).messages
    assert (message.text, message.places) == ("Image 1:\nImage 2:\nWhich?", (9, 18))


def test_neighbours_of_one_role_are_joined_and_developers_are_the_system() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:a"}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [image]},
        {"role": "user", "content": "What?"},
        {"role": "assistant", "content": "A"},
        {"role": "assistant", "content": [{"type": "text", "text": "cat."}]},
        {"role": "system", "content": "Be true."},
        {"role": "user", "content": "Why?"},
        {"role": "developer", "content": [{"type": "text", "text": "Be quick."}]},
    ]
    found = read(messages=messages).messages
    assert [(message.role, message.text, len(message.images)) for message in found] == [
        ("system", "Be brief.\nBe kind.\nBe true.\nBe quick.", 0),
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
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages", "invalid_value"),
        ({"messages": [HELLO | {"content": "\ud800"}]}, "messages[0].content", "invalid_value"),
        ({"messages": [HELLO | {"content": [{}]}]}, "messages[0].content[0].type", "missing_required_parameter"),
        ({"messages": [HELLO | {"content": [{"type": "text"}]}]}, "messages[0].content[0].text", None),
        ({"messages": [HELLO | {"content": [{"type": "input_audio"}]}]}, "messages[0].content[0].type", None),
        ({"messages": [HELLO | {"content": [{"type": "image_url"}]}]}, "messages[0].content[0].image_url", None),
        ({"messages": [HELLO | {"images": "data:x"}]}, "messages[0].images", "invalid_type"),
        ({"messages": [HELLO | {"images": [5]}]}, "messages[0].images[0]", "invalid_type"),
        ({"messages": [{"role": "assistant", "content": "x", "images": ["x"]}]}, "messages[0].images", None),
        (
            {"messages": [HELLO | {"content": [{"type": "input_image", "file_id": "file-1"}]}]},
            "messages[0].content[0].image_url",
            "missing_required_parameter",
        ),
        (
            {"messages": [HELLO | {"content": [{"type": "image", "source": {"type": "file", "file_id": "x"}}]}]},
            "messages[0].content[0].source",
            "missing_required_parameter",
        ),
        ({"messages": [HELLO | {"content": [{"type": 5}]}]}, "messages[0].content[0].type", "invalid_type"),
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
        (
            {"messages": [HELLO, {"role": "assistant", "content": "x"}], "continue_final_message": False},
            "messages",
            "invalid_value",
        ),
        ({"continue_final_message": True}, "continue_final_message", "invalid_value"),
        ({"add_generation_prompt": False}, "add_generation_prompt", "invalid_value"),
        ({"model": 5}, "model", "invalid_type"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"stream": 1}, "stream", "invalid_type"),
        ({"stream": True, "stream_options": []}, "stream_options", "invalid_type"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage", "invalid_type"),
        ({"temperature": "hot"}, "temperature", "invalid_type"),
        ({"temperature": True}, "temperature", "invalid_type"),
        ({"temperature": 100.1}, "temperature", "invalid_value"),
        ({"temperature": -1}, "temperature", "invalid_value"),
        ({"temperature": 10**400}, "temperature", "invalid_value"),
        ({"top_p": 1.01}, "top_p", "invalid_value"),
        ({"seed": 1.5}, "seed", "invalid_type"),
        ({"seed": 2**70}, "seed", "invalid_value"),
        ({"max_tokens": -2}, "max_tokens", "invalid_value"),
        ({"max_tokens": "4"}, "max_tokens", "invalid_type"),
        ({"top_k": -2}, "top_k", "invalid_value"),
        ({"logit_bias": 5}, "logit_bias", "invalid_type"),
        ({"stop": 5}, "stop", "invalid_type"),
        ({"stop": ["a", 5]}, "stop[1]", "invalid_type"),
        ({"stop": ["a"] * 33}, "stop", "array_above_max_length"),
        ({"stop": "a" * 257}, "stop", "invalid_value"),
        ({"stop": ["\ud800"]}, "stop[0]", "invalid_value"),
        ({"n": 2}, "n", "unsupported_value"),
        ({"n": 0}, "n", "invalid_value"),
        ({"user": 5}, "user", "invalid_type"),
        ({"metadata": []}, "metadata", "invalid_type"),
        ({"tool_choice": "required"}, "tool_choice", "tools_not_supported"),
        ({"tool_choice": {"type": "function"}, "tools": []}, "tool_choice", "tools_not_supported"),
        ({"function_call": {"name": "f"}}, "function_call", "tools_not_supported"),
        ({"logprobs": 5}, "logprobs", "invalid_type"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value"),
        ({"top_logprobs": 1}, "top_logprobs", "invalid_value"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"-1": 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5", "invalid_value"),
        ({"logit_bias": {str(n): 1 for n in range(1025)}}, "logit_bias", "array_above_max_length"),
        ({"frequency_penalty": 2.1}, "frequency_penalty", "invalid_value"),
        ({"presence_penalty": True}, "presence_penalty", "invalid_type"),
        ({"repetition_penalty": 0}, "repetition_penalty", "invalid_value"),
        ({"repetition_penalty": 1.1, "repeat_penalty": 1.2}, "repetition_penalty", "invalid_value"),
        ({"modalities": ["audio"]}, "modalities", "unsupported_parameter"),
        ({"audio": {"voice": "alloy"}}, "audio", "unsupported_parameter"),
        # a client that requests a form must not get another one
        ({"format": "json"}, "format", "unsupported_parameter"),
        ({"json_schema": {"type": "object"}}, "json_schema", "unsupported_parameter"),
        ({"grammar": "root ::= []"}, "grammar", "unsupported_parameter"),
        ({"guided_choice": ["a"]}, "guided_choice", "unsupported_parameter"),
        ({"structured_outputs": {"regex": "a"}}, "structured_outputs", "unsupported_parameter"),
        ({"images": ["AAAA"]}, "images", "unsupported_parameter"),
        ({"best_of": 2}, "best_of", "unsupported_parameter"),
        ({"echo": True}, "echo", "unsupported_parameter"),
        ({"n_probs": 1}, "n_probs", "unsupported_parameter"),
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


def test_of_thousands_of_faults_the_first_are_listed() -> None:
    error = fault(messages=[{"role": "king", "content": "x"}] * 1000)
    assert "messages[9].role" in error["message"]
    assert "messages[10].role" not in error["message"]
    assert error["message"].endswith("and more.")


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 1, "logprobs": False, "top_logprobs": 0, "tools": [], "logit_bias": {}, "tool_choice": "none"},
        {"max_tokens": -1, "max_completion_tokens": 0, "top_k": -1, "repetition_penalty": 1, "repeat_penalty": 1.0},
        {"echo": False, "best_of": 1, "suffix": "", "format": "", "images": [], "grammar": None, "n_probs": 0},
        {"add_generation_prompt": True, "continue_final_message": False, "function_call": "auto", "functions": []},
        {"messages": [HELLO | {"images": [], "tool_calls": [], "name": None, "mood": None}], "frobnicate": None},
        {"messages": [HELLO | {"content": [text("Hello") | {"cache_control": None}]}], "chat_template_kwargs": None},
        {"frequency_penalty": 0, "presence_penalty": 0.0, "modalities": ["text"], "user": "me", "store": False},
        {"temperature": None, "stop": None, "seed": None, "response_format": None, "stream": None, "n": None},
        {"response_format": {"type": "text"}, "metadata": {"a": "b"}, "service_tier": "auto"},
    ],
)
def test_values_without_effect_are_accepted(fields: dict[str, object]) -> None:
    assert replace(read(**fields), salt="") == read()


@pytest.mark.parametrize(
    ("limits", "content", "says"),
    [
        (Limits(), [{"type": "text", "text": "x"}] * (MAX_PARTS + 1), "has 257 items; the limit is 256"),
        (Limits(text_chars=5), "x" * 6, "contains 6 characters; the limit is 5"),
        (
            Limits(n_images=1),
            [{"type": "image_url", "image_url": {"url": "x"}}] * 2,
            "contains 2 images; the limit is 1",
        ),
    ],
)
def test_counts_are_limited(limits: Limits, content: object, says: str) -> None:
    assert says in fault(limits, messages=[{"role": "user", "content": content}])["message"]


def test_limits_are_positive() -> None:
    with pytest.raises(ValueError, match="n_images must be above 0; image_bytes must be above 0"):
        Limits(n_images=0, image_bytes=-1)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "Expecting value at line 1, column 1"),
        (b"{", "line 1, column 2"),
        (b"[]", "not an object"),
        (b'"text"', "not an object"),
        (b'{"a": NaN}', "a number that JSON does not allow"),
        (b'{"a": ' + b"9" * 5000 + b"}", "one that is too long"),
        (b'{"a": "\xff"}', "it is not UTF-8 (byte 7)"),
        (b"\xff\xfe{\x00}\x00", "it is not UTF-8 (byte 0)"),
        (b'{"a":' * 100_000, "it is nested too deeply"),
    ],
)
def test_a_body_that_is_not_json_is_refused(body: bytes, says: str) -> None:
    with pytest.raises(RequestError) as caught:
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
        read_request(ChatRequest, json.loads(json.dumps(data)), Rules(), Limits())
    except RequestError as error:
        body = error.body
    assert body["error"]["param"] is not None
    json.dumps(body, ensure_ascii=False).encode()


def _n_values(value: object) -> int:
    """Values in a value: commas and opening brackets, an object's or array's first value is counted by its bracket."""
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
@settings(max_examples=80, deadline=None)
def test_values_are_counted_outside_of_strings(tree: object, n_bytes: int) -> None:
    body, count = json.dumps(tree).encode(), JsonValueCounter()
    total = sum(count.add(body[start : start + n_bytes]) for start in range(0, len(body), n_bytes))
    assert total == count.n_values == _n_values(tree)


def test_a_million_characters_of_text_are_few_values() -> None:
    limits = Limits()
    for text in (",", "[", '"', "\\", '{"a":'):
        content = [{"type": "text", "text": text * (32 // len(text))}] * 256
        body = json.dumps({"messages": [{"role": "user", "content": content}] * 117}).encode()
        count = JsonValueCounter()
        count.add(body)
        assert count.n_values < limits.n_values
        assert len(read_request(ChatRequest, parse_body(body), Rules(), limits).messages) == 1


def test_of_thousands_of_unknown_fields_the_first_are_listed() -> None:
    message = fault(strict=True, **{f"k{n}": 1 for n in range(50_000)})["message"]
    assert message.startswith("Unknown parameter: 'k0'. Unknown parameter: 'k1'.")
    assert message.endswith("'k9'. and more.")


IGNORED = {
    "cache_prompt": True,
    "chat_template_kwargs": {"enable_thinking": False},
    "reasoning_effort": "none",
    "tool_servers": [],
    "min_tokens": 1,
    "prediction": {},
    "stream_options": {"include_usage": True},
}


def test_fields_without_effect_are_named() -> None:
    messages = [
        HELLO | {"mood": 1},
        {"role": "assistant", "content": "A.", "reasoning_content": "hm", "audio": {"id": "1"}},
        {"role": "user", "content": [text("B") | {"cache_control": {"type": "ephemeral"}}]},
        {"role": "assistant", "content": "C."},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x", "uuid": "1"}, "uuid": "1"}]},
    ]
    fields = IGNORED | {"stream": True, "stream_options": {"continuous_usage_stats": True}}
    request = read(messages=messages, **fields)
    assert set(request.ignored) == {
        *IGNORED.keys() - {"stream_options"},
        "messages[].mood",
        "messages[].reasoning_content",
        "messages[].audio",
        "messages[].content[].cache_control",
        "messages[].content[].uuid",
        "messages[].content[].image_url.uuid",
        "stream_options.continuous_usage_stats",
    }
    assert len(request.messages) == 5


@pytest.mark.parametrize("name", IGNORED)
def test_strict_refuses_fields_without_effect(name: str) -> None:
    assert read(**{name: IGNORED[name]}).ignored == (name,)
    assert fault(strict=True, **{name: IGNORED[name]})["param"] == name


@pytest.mark.parametrize(
    ("message", "param", "code"),
    [
        (HELLO | {"mood": 1}, "messages[0].mood", "unknown_parameter"),
        (HELLO | {"content": [text("a") | {"cache_control": {}}]}, "messages[0].content[0].cache_control", None),
        ({"role": "tool", "content": "x"}, "messages[0].role", "unsupported_value"),
        ({"role": "assistant", "content": "x", "tool_calls": [{}]}, "messages[0].tool_calls", "unsupported_parameter"),
        (
            HELLO | {"content": [{"type": "image_url", "image_url": {"url": "x", "detail": "fine"}}]},
            "messages[0].content[0].image_url.detail",
            "invalid_value",
        ),
    ],
)
def test_strict_refuses_them_in_messages(message: dict[str, object], param: str, code: str | None) -> None:
    error = fault(strict=True, messages=[message, HELLO])
    assert error["param"] == param
    assert error["code"] == code or code is None


def test_names_that_are_not_plain_are_not_repeated() -> None:
    hostile = {"a\r\nx-evil: 1": 1, "\x1b[31m": 1, "\ud800": 1, "é" * 10: 1, "a, b": 1, "x" * 65: 1}
    assert read(**hostile).ignored == ("?",)
    many = read(**{f"k{n}": 1 for n in range(50_000)}).ignored
    assert many == (*(f"k{n}" for n in range(20)), "...")
    assert read(messages=[HELLO | {f"k{n}": 1} for n in range(1000)]).ignored[-1] == "..."


TOOLS = [{"type": "function", "function": {"name": "f"}}]


@pytest.mark.parametrize("choice", [None, "auto"])
@pytest.mark.parametrize("key", ["tools", "functions"])
def test_tools_are_refused_in_words_that_clients_know(key: str, choice: str | None) -> None:
    error = fault(**{key: TOOLS, "tool_choice": choice})
    assert "does not support tools" in error["message"]
    assert (error["param"], error["code"]) == (key, "tools_not_supported")


@pytest.mark.parametrize(("key", "choice"), [("tools", "tool_choice"), ("functions", "function_call")])
def test_tools_that_are_not_to_be_called_are_ignored(key: str, choice: str) -> None:
    assert read(**{key: TOOLS, choice: "none"}).ignored == (key,)
    assert read(**{key: [], choice: "auto"}) == read()


CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize("content", [None, "", [], "absent"])
def test_a_history_with_tools_is_read_without_them(content: object) -> None:
    calling: dict[str, object] = {"role": "assistant", "content": content, "tool_calls": [CALL]}
    if content == "absent":
        del calling["content"]
    result = {"role": "tool", "content": [{"type": "anything"}], "tool_call_id": "1"}
    request = read(messages=[HELLO, calling, result, {"role": "function", "name": "f", "content": None}])
    assert [(message.role, message.text) for message in request.messages] == [("user", "Hello")]
    assert request.ignored == ("messages[].tool_calls", "messages[].role")
    answered = read(messages=[HELLO, calling, result, {"role": "assistant", "content": "A."}, HELLO])
    assert [message.text for message in answered.messages] == ["Hello", "A.", "Hello"]


def test_an_assistants_text_with_a_call_is_read() -> None:
    parts = [{"type": "thinking", "thinking": "hm"}, text("Let me see."), {"type": "tool_use", "id": "1"}]
    calling = {"role": "assistant", "content": parts, "tool_calls": [CALL]}
    request = read(messages=[HELLO, calling, {"role": "tool", "content": "x"}, HELLO])
    assert [message.text for message in request.messages] == ["Hello", "Let me see.", "Hello"]


def test_what_is_left_without_a_part_is_no_turn() -> None:
    calling = {"role": "assistant", "content": [{"type": "tool_use", "id": "1"}]}
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1"}]}
    request = read(messages=[HELLO, calling, result, {"role": "assistant", "content": "A."}, HELLO])
    assert [message.text for message in request.messages] == ["Hello", "A.", "Hello"]
    assert request.ignored == ("messages[].content[].type",)


@pytest.mark.parametrize("role", ["system", "assistant"])
def test_a_message_whose_content_is_null_says_nothing(role: str) -> None:
    assert read(messages=[{"role": role, "content": None}, HELLO]).messages == read().messages


def test_a_greeting_may_come_first_and_a_beginning_last() -> None:
    greeting, start = {"role": "assistant", "content": "Hi!"}, {"role": "assistant", "content": "The "}
    for flags in ({}, {"continue_final_message": True}, {"add_generation_prompt": False}):
        request = read(messages=[greeting, HELLO, start], **flags)
        assert [(m.role, m.text) for m in request.messages] == [
            ("assistant", "Hi!"),
            ("user", "Hello"),
            ("assistant", "The "),
        ]


@pytest.mark.parametrize("part", [{}, 5, {"type": "image"}, {"type": "text", "text": 5}])
@pytest.mark.parametrize("strict", [False, True])
def test_of_thousands_of_wrong_parts_few_are_looked_at(part: object, strict: bool) -> None:
    messages = [{"role": "user", "content": [part] * MAX_PARTS}] * 100
    with pytest.raises(RequestError) as caught:
        read(strict=strict, messages=messages)
    found = caught.value.__context__
    assert isinstance(found, ValidationError)
    assert MAX_PARTS <= found.error_count() < 2 * MAX_PARTS
    assert str(caught.value).endswith("and more.")


def test_a_client_cannot_name_the_alternatives_of_a_field() -> None:
    for name in ("<text>", "<untyped>", "<other>", "<image>"):
        assert fault(messages=[HELLO | {"role": name}])["param"] == "messages[0].role"
        param = fault(messages=[HELLO | {"content": [{"type": name, "text": "x"}]}])["param"]
        assert param == "messages[0].content[0].type"
        assert fault(strict=True, **{name: 1})["param"] == name
