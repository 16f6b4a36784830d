"""Schemas whose answers could be read in ever more ways at once are refused; those told apart in time are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from edge_llava.runtime.language.json_grammar import SchemaFault, schema_grammar

Accepts = Callable[[str, str], bool]

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


def _deepening(height: int, n: int) -> dict[str, Any]:
    """Arrays without an end, or from some level on arrays of this height with n texts at each level."""
    side: dict[str, Any] = {"type": "null"}
    for _ in range(height):
        side = {"anyOf": [_array(side), _object({"x": {"enum": [f"{i}" for i in range(n)]}})]}
    return _recursive({"const": 0}, _array(_AGAIN), _array(side))


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
        (_deepening(10, 200), "2048 ways at once"),
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
        (_deepening(10, 20), '{"a": [[[[[{"x": "19"}]]]]]}'),
        (_chain(2, 20), "[[null, 11], 19]"),
        ({"anyOf": [_object({"p": True, f"q{i}": True}) for i in range(512)]}, '{"p": [[1]], "q511": 5}'),
        ({"items": {"enum": [f"{i}" for i in range(512)]}}, '["0", "511"]'),
    ],
)
def test_choices_that_are_told_apart_may_be_many(accepts: Accepts, schema: dict[str, Any], good: str) -> None:
    assert accepts(schema_grammar(schema), good)
