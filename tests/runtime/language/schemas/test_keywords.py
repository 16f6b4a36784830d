"""Small cases of the kinds in JSON-Schema-Test-Suite: which texts are answers of a schema, and which are not."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

Accepts = Callable[[Any, str], bool]

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 4},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", 'b"\\', None]}, "minItems": 1, "maxItems": 2},
    },
    "required": ["name", "tags"],
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
SHAPES = {
    "oneOf": [{"$ref": "#/$defs/dot"}, {"$ref": "#/$defs/box"}],
    "discriminator": {"propertyName": "kind"},
    "$defs": {
        "dot": {"type": "object", "properties": {"kind": {"const": "dot", "default": "dot"}}},
        "box": {
            "type": "object",
            "properties": {"kind": {"const": "box"}, "w": {"type": "number"}, "in": {"$ref": "#/$defs/dot"}},
            "required": ["kind", "w"],
        },
    },
}
SUM = {
    "oneOf": [{"$ref": "#/$defs/number"}, {"$ref": "#/$defs/sum"}],
    "discriminator": {"propertyName": "kind"},
    "$defs": {
        "number": {"type": "object", "properties": {"kind": {"const": "n"}, "value": {"type": "integer"}}},
        "sum": {"type": "object", "properties": {"kind": {"const": "+"}, "of": {"items": {"$ref": "#"}}}},
    },
}
CATS = {
    "oneOf": [{"properties": {"pet": {"const": "cat"}, "fur": {"const": fur}}, "type": "object"} for fur in ("b", "w")],
    "discriminator": {"propertyName": "fur"},
}
PETS = {
    "oneOf": [CATS, {"type": "object", "properties": {"pet": {"const": "dog"}}}, {"type": "null"}],
    "discriminator": {"propertyName": "pet"},
}
BASE = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
OBJECT = {"type": "object"}
NULLS = {name: {"type": "null"} for name in "abc"}


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({}, ["1", '"x"', '{"a": [1, {}]}', "null", " [ ]"], ["", "x", "{", "1 2"]),
        ({"type": "object"}, ["{}", '\n{"a": {"b": 1}}'], ["[]", '{"a"}', "{a: 1}", "{} ", "{  }", " " * 20 + "{}"]),
        ({"type": "string"}, ['""', '"é\\n"'], ["1", '"', '"\n"', '"\\x"', '"\\ud800"', '"a" ']),
        ({"type": "number"}, ["0", "-1.5", "12"], ["01", "+1", "1.", ".5", "NaN", "--1", "0.1234567891", "9" * 17]),
        ({"type": "integer"}, ["0", "-12", str(2**53 - 1)], ["1.0", "01", "1e3", str(2**53)]),
        ({"type": ["integer", "null"]}, ["5", "null"], ["true", '""']),
        ({"type": "boolean"}, ["true", "false"], ["True", "0"]),
        ({"const": {"a": [1, "x\ny"]}}, ['{"a": [1, "x\\ny"]}', '{"a":[1,"x\\ny"]}'], ['{"a": [1]}']),
        ({"enum": ["a", 1, True, None]}, ['"a"', "1", "true", "null"], ["a", "2", "false"]),
        ({"enum": ["a", 1, True], "type": "integer"}, ["1"], ['"a"', "true"]),
        ({"enum": ["ab", "b"], "pattern": "^a"}, ['"ab"'], ['"b"']),
        # numbers
        ({"type": "integer", "minimum": -(2**53) + 1, "maximum": 2**53 - 1}, ["5", f"-{2**53 - 1}"], [f"-{2**53}"]),
        ({"type": "integer", "maximum": 20_000_000_000}, ["20000000000", "-1"], ["20000000001"]),
        ({"type": "integer", "maximum": 2**63}, ["1"], [str(2**63 + 1)]),
        ({"type": "integer", "exclusiveMinimum": 1.5, "exclusiveMaximum": 4}, ["2", "3"], ["1", "4"]),
        ({"type": "number", "minimum": 0, "maximum": 1}, ["0", "0.75", "1", "1.0"], ["1.01", "-0.1", "2"]),
        ({"type": "number", "exclusiveMinimum": 0}, ["0.5", "7"], ["0", "0.0", "-1"]),
        ({"type": "integer", "multipleOf": 3}, ["0", "3", "-300"], ["1", "301"]),
        ({"type": "number", "multipleOf": 0.01}, ["1.25", "3"], ["1.255"]),
        ({"minimum": 3}, ["3"], ["2", '"a"']),
        # strings
        ({"type": "string", "minLength": 2, "maxLength": 3}, ['"ab"', '"abc"', '"\\n\\n"', '"é€"'], ['"a"', '"abcd"']),
        ({"type": "string", "maxLength": 2000}, ['"a"', f'"{"a" * 2000}"'], [f'"{"a" * 2001}"']),
        ({"type": "string", "pattern": "b+"}, ['"abbc"', '"b"'], ['"a"', '""']),
        ({"type": "string", "pattern": "^[A-Z]{2}-\\d{1,3}$"}, ['"AB-1"', '"AB-123"'], ['"AB-1234"', '"xAB-1"']),
        ({"type": "string", "pattern": "^(a|b\\.)$|^c"}, ['"a"', '"b."', '"cx"'], ['"ab."', '"bx"']),
        ({"type": "string", "pattern": "a", "maxLength": 2}, ['"a"', '"xa"'], ['"xxa"', '"xx"']),
        ({"type": "string", "format": "date"}, ['"2024-02-29"', '"2000-02-29"'], ['"2023-02-29"', '"2026-04-31"']),
        ({"type": "string", "format": "date", "pattern": "^2"}, ['"2026-11-25"'], ['"1926-11-25"', '"2"']),
        ({"type": "string", "format": "time"}, ['"10:00:00Z"', '"10:00:00.5+01:00"'], ['"24:00:00Z"', '"10:00"']),
        ({"type": "string", "format": "date-time"}, ['"2026-11-25T10:00:00Z"'], ['"2026-11-25 10:00:00Z"']),
        ({"type": "string", "format": "email"}, ['"a.b@c-d.org"'], ['"anything"', '"a@"', '"a@b..c"']),
        ({"type": "string", "format": "uuid"}, ['"123e4567-e89b-12d3-a456-426614174000"'], ['"123e4567"']),
        ({"type": "string", "format": "hostname"}, ['"a.b-c.de"'], ['"a..b"', '"-a"', '"xn--a"']),
        ({"type": "string", "format": "ipv4"}, ['"192.0.2.1"'], ['"192.0.2.256"', '"1.2.3"']),
        ({"type": "string", "format": "ipv6"}, ['"2001:db8::1"', '"::"'], ['"1"', '":::"']),
        ({"type": "string", "format": "uri"}, ['"https://a.b/c?d#e"'], ['"//a"', '"a b"']),
        ({"type": "string", "format": "duration"}, ['"P1DT2H"'], ['"P"', '"1D"']),
        ({"type": "string", "nullable": True}, ['"a"', "null"], ["1"]),
        # arrays
        ({"type": "array", "items": {"type": "null"}}, ["[]", "[null]", "[null, null]"], ["[,]", "[null,]", "[1]"]),
        ({"type": "array", "minItems": 2, "items": {"type": "null"}}, ["[null,null,null]"], ["[]", "[null]"]),
        ({"type": "array", "maxItems": 0}, ["[]", "[ ]"], ["[1]"]),
        ({"prefixItems": [{"type": "null"}, {"type": "integer"}]}, ["[null, 1]"], ["[null]", "[null, 1, 1]"]),
        (
            {"prefixItems": [{"type": "null"}], "items": {"type": "integer"}, "maxItems": 2},
            ["[]", "[null]", "[null, 1]"],
            ["[1]", "[null, null]", "[null, 1, 1]"],
        ),
        # objects
        ({"type": "object", "additionalProperties": False}, ["{}"], ['{"a": 1}']),
        ({"additionalProperties": {"type": "integer"}}, ["{}", '{"a": 1, "b": 2}'], ['{"a": "x"}', '{"a": 1,}']),
        ({"properties": NULLS, "additionalProperties": {}}, ['{"a": null, "x": 5}'], ['{"a": 1}', '{"x": 5, "a": 1}']),
        ({"type": "object", "required": ["a"]}, ['{"a": 1}', '{"a": 1, "b": 2}'], ["{}", '{"b": 1}']),
        (
            {"properties": NULLS, "required": ["b"]},
            ['{"b": null}', '{"a": null, "b": null}', '{"b": null, "c": null}', '{\n  "a": null,\n  "b": null\n}'],
            ["{}", '{"a": null}', '{"c": null, "b": null}', '{"b": null, "x": 1}', '{"b": null, "b": null}'],
        ),
        ({"properties": {'q"\\': {"type": "null"}}, "required": ['q"\\']}, ['{"q\\"\\\\": null}'], ['{"q": null}']),
        (
            {"patternProperties": {"^n_": {"type": "integer"}}, "additionalProperties": False},
            ["{}", '{"n_a": 1}'],
            ['{"n_a": "x"}', '{"a": 1}'],
        ),
        ({"type": "object", "minProperties": 1, "maxProperties": 1}, ['{"a": 1}'], ["{}", '{"a": 1, "b": 1}']),
        (
            {"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": {"type": "number"}},
            ['{"a": 1.5}'],
            ['{"a": "x"}'],
        ),
        (
            PERSON,
            ['{"name": "Ann", "tags": ["a"]}', '{"name":"Bo","age":150,"tags":["b\\"\\\\",null]}'],
            ['{"name": "Ann"}', '{"tags": ["a"], "name": "Ann"}', '{"name": "Ann", "age": 151, "tags": ["a"]}',
             '{"name": "", "tags": ["a"]}', '{"name": "Ann", "tags": ["a"], "x": 1}', '{"name": "Ann", "tags": []}'],
        ),
        # several schemas of one value
        (TREE, ['{"value": 1, "next": {"value": 2, "next": null}}'], ['{"value": 1}', '{"value": 1, "next": 5}']),
        (
            SHAPES,
            ['{"kind": "dot"}', '{"kind": "box", "w": 1.5}', '{"kind": "box", "w": 1, "in": {}}'],
            ['{"kind": "box"}', '{"kind": "dot", "w": 1}', "{}"],
        ),
        (SUM, ['{"kind": "n"}', '{"kind": "+", "of": [{"kind": "n", "value": 1}]}'], ['{"kind": "+", "of": [{}]}']),
        (PETS, ['{"pet": "cat", "fur": "w"}', '{"pet": "dog"}', "null"], ['{"pet": "cat"}', '{"fur": "w"}', "{}"]),
        (
            {"oneOf": [{"properties": {n: {}}, "required": [n], "additionalProperties": False} | OBJECT for n in "ab"]},
            ['{"a": 1}', '{"b": 1}'],
            ["{}", '{"a": 1, "b": 1}'],
        ),
        ({"oneOf": [{"type": "string"}, {"type": "integer"}]}, ["1", '"a"'], ["1.5", "null"]),
        ({"anyOf": [{"type": "integer"}, {"type": "number", "maximum": 0}]}, ["5", "-0.5"], ["0.5"]),
        ({"type": "object", "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}, ['{"a": 1}', '{"b": 1}'], ["{}"]),
        (
            {"allOf": [{"$ref": "#/$defs/base"}, {"properties": {"y": {"type": "null"}}}], "$defs": {"base": BASE}},
            ['{"x": 1}', '{"x": 1, "y": null}'],
            ['{"y": null}', '{"x": 1, "y": 1}'],
        ),
        ({"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 5}]}, ["3", "5"], ["2", "6"]),
        ({"allOf": [{"$ref": "#/definitions/x"}], "definitions": {"x": {"type": "null"}}}, ["null"], ["1"]),
        ({"$ref": "#/$defs/a~1b~0%25", "$defs": {"a/b~%": {"type": "null"}}}, ["null"], ["1"]),
        ({"$ref": "#/prefixItems/0", "prefixItems": [{"type": "null"}]}, [], ["1"]),
        ({"anyOf": [{"type": "null"}, {"items": {"$ref": "#"}, "type": "array"}]}, ["null", "[[null], []]"], ["[1]"]),
        ({"x-order": 1, "x-guidance": {"lenient": True}, "$schema": "http://x", "type": "null"}, ["null"], ["1"]),
    ],
)  # fmt: skip
def test_what_is_an_answer(accepts: Accepts, schema: Any, good: list[str], bad: list[str]) -> None:
    assert [text for text in good if not accepts(schema, text)] == []
    assert [text for text in bad if accepts(schema, text)] == []


def test_a_schema_may_be_text(accepts: Accepts) -> None:
    assert accepts(json.dumps(PERSON), '{"name": "Ann", "tags": ["a"]}')
    assert not accepts(json.dumps(PERSON), "{}")
