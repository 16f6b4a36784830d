"""What answers cannot be held to is refused with its place; so is what would cost too much."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from edge_llava.runtime.language.grammar import GrammarFault
from edge_llava.runtime.language.json_schema import read_schema
from edge_llava.runtime.language.json_schema_error import JsonSchemaError
from edge_llava.runtime.options import SamplingOptions


@pytest.mark.parametrize(
    ("schema", "path", "says"),
    [
        ("{", (), "is not JSON"),
        ("5", (), "must be an object"),
        ({"const": float("inf")}, (), "is not JSON"),
        ({"const": "\ud800"}, (), "unpaired surrogates"),
        ({"type": "cat"}, ("type",), "must be one of object, array"),
        ({"type": []}, ("type",), "must be one of"),
        ({"type": [["string"]]}, ("type",), "must be one of"),
        ({"properties": []}, ("properties",), "must be an object"),
        ({"properties": {"a": 5}}, ("properties", "a"), "must be an object"),
        ({"properties": {"a": {"not": {}}}}, ("properties", "a", "not"), "is not supported"),
        ({"items": {"patern": "a"}}, ("items", "patern"), "is not supported"),
        ({"type": "array", "uniqueItems": True}, ("uniqueItems",), "is not supported"),
        ({"items": [{}]}, ("items",), "must be an object"),
        ({"required": "a"}, ("required",), "must be an array of strings"),
        ({"propertyNames": {"maxLength": 3}}, ("propertyNames",), "use patternProperties"),
        ({"minProperties": 2}, ("minProperties",), "from 0 to 1"),
        ({"enum": []}, ("enum",), "at least one"),
        ({"enum": ["a"], "type": "integer"}, (), "cannot be enforced: Unsatisfiable"),
        ({"const": 2**53}, ("const",), "beyond 9007199254740991"),
        ({"anyOf": {}}, ("anyOf",), "at least one"),
        ({"anyOf": [True, 5]}, ("anyOf", "1"), "must be an object"),
        ({"items": {"oneOf": [{"type": "integer"}, {"type": "number"}]}}, ("items", "oneOf"), "may overlap"),
        ({"oneOf": [{"properties": {"x": {}}}, {"type": "string"}]}, ("oneOf",), "may overlap"),
        ({"oneOf": [{"$ref": "#/enum/0"}] * 2, "enum": [{"const": "a"}]}, ("oneOf",), "may overlap"),
        ({"oneOf": [{"type": "null"}, {"$ref": "#"}]}, (), "refers to itself"),
        ({"$ref": 5}, ("$ref",), "must point into this schema"),
        ({"$ref": "https://example.com/schema"}, ("$ref",), "must point into this schema"),
        ({"$ref": "#/$defs/a"}, ("$ref",), "does not exist"),
        ({"$ref": "#"}, (), "refers to itself"),
        ({"anyOf": [{"type": "null"}, {"$ref": "#"}]}, (), "refers to itself"),
        ({"type": "array", "minItems": -1}, ("minItems",), "from 0 to 1000000"),
        ({"type": "string", "minLength": 10**7}, ("minLength",), "from 0 to 1000000"),
        ({"type": "string", "minLength": 1.5}, ("minLength",), "must be an integer"),
        ({"type": "array", "minItems": 3, "maxItems": 2}, (), "cannot be enforced"),
        ({"type": "integer", "minimum": 5, "maximum": 4}, (), "cannot be enforced"),
        ({"type": "integer", "minimum": 2**53}, ("minimum",), "9007199254740991"),
        ({"type": "number", "maximum": -1e300}, ("maximum",), "9007199254740991"),
        ({"minimum": "1"}, ("minimum",), "must be a number"),
        ({"minimum": 0, "exclusiveMinimum": True}, ("exclusiveMinimum",), "must be a number"),
        ({"multipleOf": 0}, ("multipleOf",), "from 0.000001"),
        ({"multipleOf": 999_983}, ("multipleOf",), "at most 4 digits"),
        ({"type": "string", "format": 5}, ("format",), "must be one of date"),
        ({"type": "string", "format": "idn-email"}, ("format",), "must be one of date"),
        ({"pattern": 5}, ("pattern",), "must be a string"),
        ({"pattern": "(?=a)b"}, ("pattern",), "'(?='"),
        ({"pattern": "(?i)a"}, ("pattern",), "'(?i'"),
        ({"pattern": "[a&&b]"}, ("pattern",), "'[a&&'"),
        ({"pattern": "[^]"}, ("pattern",), "'[^]'"),
        ({"pattern": r"\\\bx"}, ("pattern",), r"\\b"),
        ({"properties": {"a": {"pattern": r"(a)\1"}}}, ("properties", "a"), "backreferences"),
        ({"properties": {"a": {"pattern": "["}}}, ("properties", "a"), "unclosed"),
        ({"patternProperties": {"^a": {}, "b$": {"type": "null"}}}, (), "cannot be enforced"),
        ({"properties": {"a": False}, "required": ["a"]}, (), "'a' is unsatisfiable"),
        ({"type": "object", "properties": {f"{i}": {} for i in range(101)}}, ("properties",), "at most 100"),
        ({"enum": [f"{i}" for i in range(2001)]}, ("enum",), "the limit is 2000"),
        ({"enum": ["x" * 300_000]}, (), "the limit is 262144"),
    ],
)  # fmt: skip
def test_what_cannot_be_enforced_is_refused_with_its_place(schema: Any, path: tuple[str, ...], says: str) -> None:
    with pytest.raises(JsonSchemaError) as caught:
        read_schema(schema)
    assert caught.value.path == path
    assert says in str(caught.value)


_KEYS = (
    "type", "properties", "required", "additionalProperties", "patternProperties", "minProperties", "maxProperties",
    "items", "prefixItems", "minItems", "maxItems", "uniqueItems", "minLength", "maxLength", "pattern", "format",
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "enum", "const", "anyOf", "oneOf",
    "allOf", "$ref", "$defs", "discriminator", "propertyNames",
)  # fmt: skip


@pytest.mark.parametrize("value", [None, True, 3.0, 1e308, "a", -1, 10**400, [], [None], [[]], {}, {"a": None}])
@pytest.mark.parametrize("base", [{}, *({"type": kind} for kind in ("object", "array", "string", "integer", "cat"))])
def test_any_value_of_any_keyword_is_a_schema_or_an_error(base: dict[str, Any], value: Any) -> None:
    n_refused = 0
    for key in _KEYS:
        try:
            assert read_schema({**base, key: value})
        except JsonSchemaError:
            n_refused += 1
    assert n_refused > 0


def _deep(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def _nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def test_depth_is_limited(accepts: Callable[[Any, str], bool]) -> None:
    assert accepts({"const": _deep(48)}, "[" * 48 + "]" * 48)
    assert accepts(_nested(48), "[" * 48 + "null" + "]" * 48)
    for schema in ({"const": _deep(49)}, {"items": {"enum": [1, {"a": _deep(900)}]}}, _nested(49), _nested(300)):
        with pytest.raises(JsonSchemaError, match="48 levels"):
            read_schema(schema)
    beyond = 10 * sys.getrecursionlimit()
    for schema in (
        {"const": _deep(beyond)},
        {"default": _deep(beyond)},
        '{"const":' + "[" * beyond + "]" * beyond + "}",
    ):
        with pytest.raises(JsonSchemaError, match="nested too deeply"):
            read_schema(schema)  # type: ignore[arg-type]


_AGAIN = {"$ref": "#/$defs/a"}


def _array(*items: Any) -> dict[str, Any]:
    return {"type": "array", "prefixItems": list(items)}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _recursive(choices: list[Any]) -> dict[str, Any]:
    return _object({"a": _AGAIN}) | {"$defs": {"a": {"anyOf": [{"const": 0}, *choices]}}}


def _doubling(n: int, key: str) -> dict[str, Any]:
    """Definitions that refer to the next one twice each: 2 ** n paths."""
    defs = {f"a{i}": {key: [{"$ref": f"#/$defs/a{i + 1}"}, {"$ref": f"#/$defs/a{i + 1}"}]} for i in range(n)}
    return {"$ref": "#/$defs/a0", "$defs": defs | {f"a{n}": _object({"x": {"type": "string"}})}}


def _product(n: int, width: int) -> dict[str, Any]:
    """width ** n combinations."""
    return {"allOf": [{"anyOf": [_object({f"p{i}": {"const": j}}) for j in range(width)]} for i in range(n)]}


_HOSTILE = {
    "ambiguous": _recursive([_array(_AGAIN, {"const": i}) for i in range(20)]),
    "very ambiguous": _recursive([_array(_AGAIN, {"const": i}) for i in range(300)]),
    "ambiguous objects": _recursive([_object({"l": _AGAIN, "r": _AGAIN, f"x{i}": {"const": i}}) for i in range(60)]),
    "ambiguous maps": _recursive([{"additionalProperties": {"anyOf": [_AGAIN, {"const": i}]}} for i in range(60)]),
    "wide": {"anyOf": [_array({"type": "string"}, {"const": i}) for i in range(300)]},
    "too wide": {"anyOf": [True] * 2000},
    "doubling anyOf": _doubling(60, "anyOf"),
    "doubling allOf": _doubling(60, "allOf"),
    "product": _product(4, 8),
    "huge product": _product(10, 10),
    "inner product": {"allOf": [_object({"x": choice}) for choice in _product(4, 8)["allOf"]]},
    "long enum": {"enum": [f"{'x' * 80}{i}" for i in range(2000)]},
    "repetition": {"type": "string", "pattern": "^(a|b){100000}$"},
    "repetitions": {"type": "string", "pattern": "^((a{1,100}){1,100}){1,100}$"},
    "nested stars": {"type": "string", "pattern": "^((a+)+)+$"},
    "backtracking": {"type": "string", "pattern": "^(.*a){30}b$"},
    "exponential automaton": {"type": "string", "pattern": "^(.*a.{300})$"},
    "many patterns": {"type": "string", "pattern": "|".join(f"{i}.*{i}.*" for i in range(500))},
    "all patterns": {"allOf": [{"type": "string", "pattern": f".*{i}.{{{20 + i}}}"} for i in range(10)]},
    "classes": {"type": "string", "pattern": r"^(\p{L}{1,500}\p{N}{1,500}){1,500}$"},
    "lengths": _object({f"{i}": {"type": "string", "minLength": i, "maxLength": 10**6 - i} for i in range(300)}),
    "counts": {"minItems": 10**6, "items": {"minItems": 10**6, "items": {"maxItems": 10**6, "items": {}}}},
    "multiples": {"allOf": [{"type": "integer", "multipleOf": n} for n in (9973, 9967, 9949)]},
    "multiple": {"type": "integer", "multipleOf": 9973},
    "recursion": {"type": "array", "items": {"anyOf": [{"$ref": "#"}, {"type": "array", "items": {"$ref": "#"}}]}},
}


@pytest.mark.parametrize("name", _HOSTILE)
def test_a_hostile_schema_costs_milliseconds(name: str, grammar_of: Callable[[Any], Any]) -> None:
    """Refused, or followed for 20 tokens, which are brackets, quotes and "a" where they may follow."""

    def is_opening(token: int) -> bool:
        return token in (*b'[{"a',)

    started, fault = time.process_time(), ""
    try:
        grammar = grammar_of(_HOSTILE[name])
        for _ in range(20):
            token = grammar.sample(lambda tokens: max(tokens.tolist(), key=is_opening))
            grammar.accept(token)
    except (JsonSchemaError, GrammarFault) as error:
        fault = str(error)
    # 20 tokens of the worst take 0.5 s, everything else much less
    assert time.process_time() - started < 25, fault


def test_sampling_options_keep_a_schema_as_text() -> None:
    options = SamplingOptions(json_schema={"type": "object", "properties": {"é": {"type": "null"}}})
    assert options.json_schema == '{"type":"object","properties":{"é":{"type":"null"}}}'
    assert options == SamplingOptions(json_schema=options.json_schema)
    assert hash(options)
    with pytest.raises(ValueError, match=r"^json_schema: items.not is not supported$"):
        SamplingOptions(json_schema={"items": {"not": {}}})
    with pytest.raises(ValueError, match=r"temperature must be .*; grammar and json_schema exclude each other"):
        SamplingOptions(temperature=-1, grammar="root ::= [a]", json_schema={})
