"""What no grammar can hold an answer to, or would keep llama.cpp or its maker busy, is refused with its place."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from edge_llava.runtime.language.json_grammar import SchemaFault, schema_grammar

Accepts = Callable[[str, str], bool]


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
        ({"const": float("inf")}, ("const",), "a number that JSON has not"),
        ({"type": "string", "format": 5}, ("format",), "must be a string"),
    ],
)
def test_what_no_grammar_holds_is_refused(schema: Any, path: tuple[str, ...], says: str) -> None:
    with pytest.raises(SchemaFault) as caught:
        schema_grammar(schema)
    assert caught.value.path == path
    assert says in str(caught.value)


_BOUNDS = {
    "array": ("minItems", "maxItems"),
    "string": ("minLength", "maxLength"),
    "integer": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
}
_KEYS = (
    "type", "properties", "required", "additionalProperties", "items", "prefixItems", "uniqueItems", "format", "enum",
    "const", "anyOf", "oneOf", "allOf", "$ref", "$defs",
)  # fmt: skip
_BOUND_KEYS = [(kind, key) for kind, keys in _BOUNDS.items() for key in keys]


@pytest.mark.parametrize(("kind", "key"), _BOUND_KEYS)
def test_a_bound_of_null_is_not_given(kind: str, key: str) -> None:
    plain = schema_grammar({"type": kind})
    assert schema_grammar({"type": kind, key: None}) == plain
    assert schema_grammar({key: None}) == plain
    assert schema_grammar({"type": kind, key: 3.0}) == schema_grammar({"type": kind, key: 3}) != plain


@pytest.mark.parametrize(("kind", "key"), _BOUND_KEYS)
@pytest.mark.parametrize("value", [True, 1.5, float("inf"), float("nan"), "3", 10**400, 1e300, [], [3], {}])
def test_a_bound_is_an_integer(kind: str, key: str, value: Any) -> None:
    with pytest.raises(SchemaFault, match="must be an integer") as caught:
        schema_grammar({"type": kind, key: value})
    assert caught.value.path == (key,)


@pytest.mark.parametrize("value", [None, True, 3.0, 1e400, "a", -1, 10**400, [], [None], [[]], {}, {"a": None}])
@pytest.mark.parametrize("base", [{}, *({"type": kind} for kind in ("object", "array", "string", "integer", "cat"))])
def test_any_value_of_any_keyword_is_a_schema_or_a_fault(base: dict[str, Any], value: Any) -> None:
    for key in (*_KEYS, *[key for _, key in _BOUND_KEYS]):
        try:
            text = schema_grammar({**base, key: value})
        except SchemaFault as fault:
            text = f"root ::= {fault}"
        assert re.match("root ::= .", text)


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


def _many_ways_to(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema within arrays of arrays, each of which is referred to: it is visited again by way of each."""
    pointers = [{"$ref": "#/$defs" + "/items" * n} for n in range(20)]
    for _ in range(20):
        schema = {"items": schema}
    return {"prefixItems": pointers, "$defs": schema}


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        (_nested(100), "goes too far"),
        (_doubling(20), "choices at one place"),
        ({"enum": [f"{i}" for i in range(600)]}, "choices at one place"),
        ({"properties": {f"{i}": {"type": "null"} for i in range(600)}}, "600 properties; the limit is 512"),
        ({"prefixItems": [{"type": "null"}] * 3000}, "goes too far"),
        ({"enum": ["x" * 300_000]}, "makes a grammar of 300"),
        ({"properties": {"a": True}, "required": ["a"] * 2001}, "2001 of at most 2000"),
        ({"enum": ["a"] * 2001}, "2001 of at most 2000"),
        ({"type": ["null"] * 2001}, "2001 of at most 2000"),
        ({"anyOf": [True] * 2001}, "2001 of at most 2000"),
        ({"prefixItems": [True] * 2001}, "2001 of at most 2000"),
        (_many_ways_to({"enum": ["x" * 30_000]}), "makes a grammar of 2"),
    ],
)
def test_what_would_keep_llama_cpp_busy_is_refused(schema: dict[str, Any], says: str) -> None:
    with pytest.raises(SchemaFault, match=says):
        schema_grammar(schema)


def _deep(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def test_the_depth_of_a_value_is_limited_like_that_of_a_schema(accepts: Accepts) -> None:
    assert accepts(schema_grammar({"const": _deep(48)}), "[" * 48 + "]" * 48)
    for depth in (49, 900, 983, 100_000):
        value = _deep(depth)
        for schema, path in (
            ({"const": value}, ("const",)),
            ({"enum": [1, {"a": value}]}, ("enum",)),
            ({"items": {"const": value}}, ("items", "const")),
        ):
            with pytest.raises(SchemaFault, match="48 deep is the limit") as caught:
                schema_grammar(schema)
            assert caught.value.path == path


@pytest.mark.parametrize("schema", [_nested(40), _doubling(6), {"enum": [f"{i}" for i in range(500)]}])
def test_what_is_within_limits_compiles(accepts: Accepts, schema: dict[str, Any]) -> None:
    assert not accepts(schema_grammar(schema), "x")
