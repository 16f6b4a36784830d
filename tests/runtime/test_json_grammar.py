"""Schemas as grammars, judged by llama.cpp itself: what the grammar takes is what the schema accepts."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_llava.runtime.language.integer_range import integer_rule
from edge_llava.runtime.language.json_grammar import object_grammar, schema_grammar

Accepts = Callable[[str, str], bool]


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
