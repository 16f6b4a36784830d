"""Schemas as grammars, judged by llama.cpp itself: what the grammar takes is what the schema accepts."""

from __future__ import annotations

import ctypes
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_llava.runtime.integer_range import integer_rule
from edge_llava.runtime.json_grammar import SchemaFault, object_grammar, schema_grammar

Accepts = Callable[[str, str], bool]


@pytest.fixture(scope="module")
def accepts(seeded_q4: Path) -> Iterator[Accepts]:
    """accepts(grammar, text) -> whether llama.cpp takes the text, and would end an answer after it."""
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(seeded_q4 / "language.gguf").encode(), params)
    vocabulary = llama_cpp.llama_model_get_vocab(model)
    piece = ctypes.create_string_buffer(64)
    byte_tokens: dict[int, int] = {}
    for token in range(llama_cpp.llama_vocab_n_tokens(vocabulary)):
        if llama_cpp.llama_token_to_piece(vocabulary, token, piece, 64, 0, False) == 1:
            byte_tokens.setdefault(piece.raw[0], token)
    end = llama_cpp.llama_vocab_eos(vocabulary)

    def takes(grammar: Any, token: int) -> bool:
        candidate = (llama_cpp.llama_token_data * 1)(llama_cpp.llama_token_data(token, 1.0, 0.0))
        candidates = llama_cpp.llama_token_data_array(candidate, 1, -1, False)
        llama_cpp.llama_sampler_apply(grammar, ctypes.byref(candidates))
        return bool(candidate[0].logit > float("-inf"))

    def run(text: str, asked: str) -> bool:
        grammar = llama_cpp.llama_sampler_init_grammar(vocabulary, text.encode(), b"root")
        assert grammar, text
        try:
            for byte in asked.encode():
                if not takes(grammar, byte_tokens[byte]):
                    return False
                llama_cpp.llama_sampler_accept(grammar, byte_tokens[byte])
            return takes(grammar, end)
        finally:
            llama_cpp.llama_sampler_free(grammar)

    yield run
    llama_cpp.llama_model_free(model)


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 4},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", 'b"\\', None]}, "minItems": 1, "maxItems": 2},
    },
    "required": ["name", "tags"],
    "additionalProperties": False,
}
TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": {"type": "integer"},
                "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
            },
            "required": ["value", "next"],
        }
    },
}
SHAPE = {
    "oneOf": [
        {"type": "object", "properties": {"kind": {"const": "dot"}}, "required": ["kind"]},
        {
            "type": "object",
            "properties": {"kind": {"const": "box"}, "w": {"type": "number"}},
            "required": ["kind", "w"],
        },
    ]
}


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (True, ["1", '"x"', '{"a": [1, {}]}', "null", " [ ]"], ["", "x", "{", "1 2"]),
        ({"type": "string"}, ['""', '"\\u00e9\\n"', '"é"'], ["1", '"', '"\n"', '"\\x"', '"\\ud800"', '"a" ']),
        ({"type": "number"}, ["0", "-1.5e-3", "12"], ["01", "+1", "1.", ".5", "NaN", "--1"]),
        ({"type": "integer"}, ["0", "-12"], ["1.0", "01", "1e3"]),
        ({"type": ["integer", "null"]}, ["5", "null"], ["true", '""']),
        ({"type": "boolean"}, ["true", "false"], ["True", "0"]),
        ({"const": {"a": [1, "x\ny"]}}, ['{"a": [1, "x\\ny"]}'], ['{"a":[1]}']),
        ({"enum": ["a", 1, True, None]}, ['"a"', "1", "true", "null"], ["a", "2", "false"]),
        ({"enum": ["a", 1, True], "type": "integer"}, ["1"], ['"a"', "true"]),
        ({"type": "string", "format": "date"}, ['"2026-11-25"'], ['"2026-13-25"', '"26-11-25"', '"2026-11-32"']),
        ({"type": "string", "format": "date-time"}, ['"2026-11-25T10:00:00Z"'], ['"2026-11-25 10:00:00Z"']),
        ({"type": "string", "format": "uuid"}, ['"123e4567-e89b-12d3-a456-426614174000"'], ['"123e4567"']),
        ({"type": "string", "format": "email"}, ['"anything"'], ["5"]),
        ({"type": "string", "minLength": 2, "maxLength": 3}, ['"ab"', '"abc"', '"\\n\\n"'], ['"a"', '"abcd"']),
        ({"type": "array", "items": {"type": "null"}}, ["[]", "[null]", "[null, null]"], ["[,]", "[null,]", "[1]"]),
        ({"type": "array", "minItems": 2, "items": {"type": "null"}}, ["[null,null,null]"], ["[]", "[null]"]),
        ({"type": "array", "maxItems": 0}, ["[]", "[ ]"], ["[1]"]),
        ({"prefixItems": [{"type": "null"}, {"type": "integer"}]}, ["[null, 1]"], ["[null]", "[null, 1, 1]"]),
        ({"type": "object"}, ["{}", '{"a": {"b": 1}}'], ["[]", '{"a"}', "{a: 1}"]),
        ({"type": "object", "additionalProperties": False}, ["{}"], ['{"a": 1}']),
        ({"additionalProperties": {"type": "integer"}}, ["{}", '{"a": 1, "b": 2}'], ['{"a": "x"}', '{"a": 1,}']),
        (
            PERSON,
            ['{"name": "Ann", "tags": ["a"]}', '{"name":"Bo","age":150,"tags":["b\\"\\\\",null]}'],
            ['{"name": "Ann"}', '{"tags": ["a"], "name": "Ann"}', '{"name": "Ann", "age": 151, "tags": ["a"]}',
             '{"name": "", "tags": ["a"]}', '{"name": "Ann", "tags": ["a"], "x": 1}', '{"name": "Ann", "tags": []}'],
        ),
        (TREE, ['{"value": 1, "next": {"value": 2, "next": null}}'], ['{"value": 1}', '{"value": 1, "next": 5}']),
        (SHAPE, ['{"kind": "dot"}', '{"kind": "box", "w": 1.5}'], ['{"kind": "box"}', '{"kind": "dot", "w": 1}']),
        (
            {"properties": {"a": {"type": "null"}, "b": {"type": "null"}, "c": {"type": "null"}}, "required": ["b"]},
            ['{"b": null}', '{"a": null, "b": null}', '{"b": null, "c": null}', '{\n  "a": null,\n  "b": null\n}'],
            ["{}", '{"a": null}', '{"c": null, "b": null}', '{"a": null, "c": null}'],
        ),
        (
            {"properties": {"a": {"type": "null"}, "b": {"type": "null"}}},
            ["{}", '{"a": null}', '{"b": null}', '{"a": null, "b": null}'],
            ['{"b": null, "a": null}', '{"a": null,}', '{,"b": null}'],
        ),
        ({"allOf": [{"$ref": "#/definitions/x"}], "definitions": {"x": {"type": "null"}}}, ["null"], ["1"]),
        ({"$ref": "#/$defs/a~1b~0c", "$defs": {"a/b~c": {"type": "null"}}}, ["null"], ["1"]),
        ({"properties": {'q"\\': {"type": "null"}}, "required": ['q"\\']}, ['{"q\\"\\\\": null}'], ['{"q": null}']),
    ],
)  # fmt: skip
def test_takes_what_the_schema_accepts(accepts: Accepts, schema: Any, good: list[str], bad: list[str]) -> None:
    grammar = schema_grammar(schema)
    assert [text for text in good if not accepts(grammar, text)] == []
    assert [text for text in bad if accepts(grammar, text)] == []


def test_any_object_is_an_object(accepts: Accepts) -> None:
    grammar = object_grammar()
    assert accepts(grammar, '\n{"a": [true, {"b": "c"}], "d": -0.5}')
    assert not accepts(grammar, "[]")
    assert not accepts(grammar, '{"a": 1} ')


@pytest.mark.parametrize(
    ("schema", "path", "says"),
    [
        (5, (), "must be an object"),
        ({"type": "cat"}, ("type",), "must be of object, array"),
        ({"type": []}, ("type",), "must be of"),
        ({"type": [["string"]]}, ("type",), "must be of"),
        ({"properties": []}, ("properties",), "must be an object"),
        ({"properties": {"a": 5}}, ("properties", "a"), "must be an object"),
        ({"properties": {"a": {"not": {}}}}, ("properties", "a", "not"), "is not supported"),
        ({"type": "string", "pattern": "a+"}, ("pattern",), "is not supported"),
        ({"type": "number", "minimum": 1}, ("minimum",), "is not supported"),
        ({"type": "integer", "multipleOf": 2}, ("multipleOf",), "is not supported"),
        ({"type": "array", "uniqueItems": True}, ("uniqueItems",), "is not supported"),
        ({"required": ["a"], "properties": {"b": {}}}, ("required",), "names 'a', which is no property"),
        ({"required": "a"}, ("required",), "must be an array of strings"),
        ({"enum": []}, ("enum",), "not empty"),
        ({"enum": ["a"], "type": "integer"}, ("enum",), "holds nothing of type integer"),
        ({"const": "\ud800"}, ("const",), "halves of characters"),
        ({"anyOf": {}}, ("anyOf",), "not empty"),
        ({"anyOf": [{}], "type": "string"}, ("type",), "is not supported"),
        ({"allOf": [{}, {}]}, ("allOf",), "one schema only"),
        ({"$ref": 5}, ("$ref",), "must point into this schema"),
        ({"$ref": "https://example.com/schema"}, ("$ref",), "must point into this schema"),
        ({"$ref": "#/$defs/a"}, ("$ref",), "where nothing is"),
        ({"$ref": "#"}, (), "begins with itself"),
        ({"anyOf": [{"type": "null"}, {"$ref": "#"}]}, (), "begins with itself"),
        ({"type": "string", "maxLength": 10**9}, ("maxLength",), "from 0 to 1000"),
        ({"type": "array", "minItems": -1}, ("minItems",), "from 0 to 1000"),
        ({"type": "array", "minItems": 3, "maxItems": 2}, ("maxItems",), "is less than minItems"),
        ({"type": "integer", "minimum": 5, "maximum": 4}, (), "allows no integer"),
        ({"type": "integer", "minimum": 1.5}, ("minimum",), "must be an integer"),
        ({"type": "integer", "maximum": 10**15}, ("maximum",), "at most 15 digits"),
    ],
)
def test_what_no_grammar_holds_is_refused(schema: Any, path: tuple[str, ...], says: str) -> None:
    with pytest.raises(SchemaFault) as caught:
        schema_grammar(schema)
    assert caught.value.path == path
    assert says in str(caught.value)


def _nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def _doubling(n: int) -> dict[str, Any]:
    """Choices of two choices each, n times: 2 ** n ways to begin."""
    defs = {
        f"a{i}": {"anyOf": [{"$ref": f"#/$defs/a{i + 1}"}, {"anyOf": [{"$ref": f"#/$defs/a{i + 1}"}, {"const": i}]}]}
        for i in range(n)
    }
    return {"$ref": "#/$defs/a0", "$defs": defs | {f"a{n}": {"enum": [1, 2]}}}


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        (_nested(100), "goes too far"),
        (_doubling(20), "choices at one place"),
        ({"enum": [f"{i}" for i in range(600)]}, "choices at one place"),
        ({"properties": {f"{i}": {"type": "null"} for i in range(600)}}, "600 properties; the limit is 512"),
        ({"prefixItems": [{"type": "null"}] * 3000}, "goes too far"),
        ({"enum": ["x" * 300_000]}, "makes a grammar of 300"),
    ],
)
def test_what_would_keep_llama_cpp_busy_is_refused(schema: dict[str, Any], says: str) -> None:
    with pytest.raises(SchemaFault, match=says):
        schema_grammar(schema)


_AGAIN = {"$ref": "#/$defs/a"}


def _array(*items: Any) -> dict[str, Any]:
    return {"type": "array", "prefixItems": list(items)}


def _object(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties) if required is None else required}


def _recursive(*choices: Any) -> dict[str, Any]:
    return _object({"a": _AGAIN}) | {"$defs": {"a": {"anyOf": list(choices)}}}


def _chain(n: int, width: int) -> dict[str, Any]:
    """Arrays in arrays that differ in their last item only: width ** n ways to read n brackets."""
    defs = {
        f"a{i}": {"anyOf": [_array({"$ref": f"#/$defs/a{i + 1}"}, {"const": j}) for j in range(width)]}
        for i in range(n)
    }
    return {"$ref": "#/$defs/a0", "$defs": defs | {f"a{n}": {"type": "null"}}}


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        (_recursive(*[_array(_AGAIN, {"const": i}) for i in range(2)]), "recursive .* begin with '\\[\\['"),
        (_recursive(*[_array(_AGAIN, {"const": i}) for i in range(20)]), "a first property that is required"),
        (_recursive(_object({"l": _AGAIN, "r": _AGAIN}), _object({"l": _AGAIN, "x": {}})), "recursive"),
        (_recursive(*[_object({"t": {"const": i}, "a": _AGAIN}, ["a"]) for i in range(2)]), "recursive"),
        (_recursive({"anyOf": [_array(_AGAIN, True)]}, {"oneOf": [_array(_AGAIN), {"type": "null"}]}), "recursive"),
        (_recursive({"type": ["array", "null"], "items": _AGAIN}, _array(_AGAIN, _AGAIN)), "recursive"),
        (_recursive(*[{"type": "array", "items": _AGAIN, "maxItems": i} for i in (2, 3)]), "recursive"),
        (_recursive(*[{"additionalProperties": {"anyOf": [_AGAIN, {"const": i}]}} for i in (2, 3)]), "recursive"),
        (
            _recursive(_array(_AGAIN), _array(_array({"enum": list(range(200))}, True)), _array(True)),
            "2048 ways at once",
        ),
        (_chain(3, 20), "2048 ways at once"),
        (_chain(12, 2), "2048 ways at once"),
        ({"anyOf": [_array({"enum": [f"{j}" for j in range(512)]}, {"const": i}) for i in range(5)]}, "2048 ways"),
    ],
)
def test_what_can_be_read_in_too_many_ways_is_refused(schema: dict[str, Any], says: str) -> None:
    with pytest.raises(SchemaFault, match=says):
        schema_grammar(schema)


@pytest.mark.parametrize(
    ("schema", "good"),
    [
        (
            _recursive(
                {"const": 0}, *[_object({"t": {"const": f"t{i}"}, "l": _AGAIN, "r": _AGAIN}) for i in range(30)]
            ),
            '{"a": {"t": "t2", "l": 0, "r": {"t": "t20", "l": 0, "r": 0}}}',
        ),
        (
            _recursive({"const": 0}, *[_object({"t": {"enum": [i, i + 100]}, "l": _AGAIN}) for i in range(30)]),
            '{"a": {"t": 1, "l": {"t": 11, "l": {"t": 111, "l": 0}}}}',
        ),
        (_recursive({"const": 0}, *[_array({"const": i}, _AGAIN) for i in range(30)]), '{"a": [1, [11, [2, 0]]]}'),
        (_recursive({"const": 0}, *[_object({f"k{i}": _AGAIN}) for i in range(30)]), '{"a": {"k1": {"k11": 0}}}'),
        (
            _recursive(
                {"type": "array", "items": _AGAIN}, {"additionalProperties": _AGAIN}, {"type": ["null", "number"]}
            ),
            '{"a": [[{"x": {"y": [null, 1.5]}}]]}',
        ),
        (
            _recursive(_object({"n": {"type": "string"}}), _object({"n": {"type": "string"}, "c": {"items": _AGAIN}})),
            '{"a": {"n": "x", "c": [{"n": "y"}, {"n": "z", "c": []}]}}',
        ),
        (_chain(2, 20), "[[null, 11], 19]"),
        ({"anyOf": [_object({"p": True, f"q{i}": True}) for i in range(512)]}, '{"p": [[1]], "q511": 5}'),
        ({"items": {"enum": [f"{i}" for i in range(512)]}}, '["0", "511"]'),
    ],
)
def test_choices_that_are_told_apart_may_be_many(accepts: Accepts, schema: dict[str, Any], good: str) -> None:
    assert accepts(schema_grammar(schema), good)


@pytest.mark.parametrize("schema", [_nested(40), _doubling(6), {"enum": [f"{i}" for i in range(500)]}])
def test_what_is_within_limits_compiles(accepts: Accepts, schema: dict[str, Any]) -> None:
    assert not accepts(schema_grammar(schema), "x")


_BOUND = st.none() | st.integers(-1200, 1200) | st.integers(-(10**15) + 1, 10**15 - 1)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(_BOUND, _BOUND, st.integers(0, 2**32))
def test_integers_are_taken_within_their_bounds_only(
    accepts: Accepts, one: int | None, other: int | None, seed: int
) -> None:
    low, high = (one, other) if one is None or other is None else (min(one, other), max(one, other))
    grammar = f"root ::= {integer_rule(low, high)}\n"
    draw = random.Random(seed)
    ends = [bound + step for bound in (low, high) if bound is not None for step in (-1, 0, 1)]
    for value in {*ends, 0, 1, -1, 9, 10, 99, 100, *(draw.randint(-2000, 2000) for _ in range(10))}:
        is_within = (low is None or low <= value) and (high is None or value <= high)
        assert accepts(grammar, str(value)) == is_within, (value, low, high, grammar)


_VALUES = st.recursive(
    st.sampled_from([{"type": "null"}, {"type": "integer"}, {"type": "boolean"}, {"type": "string"}, {}])
    | st.lists(st.text(max_size=5) | st.integers(-9, 9), min_size=1, max_size=3).map(lambda values: {"enum": values}),
    lambda inner: st.one_of(
        inner.map(lambda schema: {"type": "array", "items": schema, "maxItems": 3}),
        st.lists(inner, min_size=1, max_size=3).map(lambda schemas: {"anyOf": schemas}),
        st.dictionaries(st.text(max_size=5), inner, max_size=4).map(
            lambda properties: {"type": "object", "properties": properties, "required": sorted(properties)[::2]}
        ),
    ),
    max_leaves=6,
)


def _example(schema: dict[str, Any], draw: random.Random) -> Any:
    """A value that the schema accepts, members in the order of its properties."""
    if "enum" in schema:
        return draw.choice(schema["enum"])
    if "anyOf" in schema:
        return _example(draw.choice(schema["anyOf"]), draw)
    if schema.get("type") == "array":
        return [_example(schema["items"], draw) for _ in range(draw.randint(0, 3))]
    if schema.get("type") == "object":
        return {
            name: _example(inner, draw)
            for name, inner in schema["properties"].items()
            if name in schema["required"] or draw.random() < 0.5
        }
    simple = {"null": None, "integer": 17, "boolean": True, "string": 'a"\\\n\u00e9'}
    return simple[schema["type"]] if schema else draw.choice([*simple.values(), {"x": [1.5]}])


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80)
@given(_VALUES, st.integers(0, 2**32), st.sampled_from([None, 2]))
def test_what_a_schema_accepts_is_taken(accepts: Accepts, schema: Any, seed: int, indent: int | None) -> None:
    value = _example(schema, random.Random(seed))
    # the grammar of an enum's texts writes characters, not escapes
    assert accepts(schema_grammar(schema), json.dumps(value, ensure_ascii=False, indent=indent)), value
