"""Random answers of random schemas, judged by the jsonschema package."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from edge_llava.runtime.language.json_schema import read_schema
from edge_llava.runtime.language.json_schema_error import JsonSchemaError

jsonschema = pytest.importorskip("jsonschema")

N_SCHEMAS, N_ANSWERS = 200, 3
_FORMATS = ("date", "time", "date-time", "email", "hostname", "uuid", "duration", "ipv4", "ipv6", "uri")
_PATTERNS = ("^a+b?$", "b", "^[A-C]{2,4}\\d*$", '^(x|yz)-[^a-y"]$', "[\\w.]+@", "^\\S{3}", "a|^b", "^$")
_NAMES = ("a", "b", "cc", 'q"', "é")
_Draw = random.Random


def _number(draw: _Draw) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": draw.choice(("integer", "number"))}
    low = draw.choice((-7, 0, 0.5, 3, 99, -1000.25, 10**9))
    if draw.random() < 0.5:
        schema[draw.choice(("minimum", "exclusiveMinimum"))] = low
    if draw.random() < 0.5:
        schema[draw.choice(("maximum", "exclusiveMaximum"))] = low + draw.choice((1, 2.5, 50, 10**6))
    if draw.random() < 0.2:
        schema["multipleOf"] = draw.choice((2, 7, 0.25, 10))
    return schema


def _string(draw: _Draw) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    kind = draw.random()
    if kind < 0.3:
        schema["pattern"] = draw.choice(_PATTERNS)
    elif kind < 0.6:
        schema["format"] = draw.choice(_FORMATS)
    if kind > 0.5 and draw.random() < 0.7:
        low = draw.randint(0, 4)
        schema |= {"minLength": low, "maxLength": low + draw.randint(0, 30)}
    return schema


def _literal(draw: _Draw) -> dict[str, Any]:
    values = [None, True, 0, -5, 1.5, "", 'a"\\\n', "é€", [], [1, "x"], {}, {"a": {"b": []}}, "true", 0.1, 10**12]
    chosen = draw.sample(values, draw.randint(1, 4))
    return {"const": chosen[0]} if draw.random() < 0.4 else {"enum": chosen}


def _array(draw: _Draw, depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "array"} if draw.random() < 0.8 else {}
    if draw.random() < 0.7:
        schema["items"] = _schema(draw, depth)
    if draw.random() < 0.3:
        schema["prefixItems"] = [_schema(draw, depth) for _ in range(draw.randint(1, 3))]
    if draw.random() < 0.5:
        low = draw.randint(0, 2)
        schema |= {"minItems": low, "maxItems": low + draw.randint(0, 3)}
    return schema


def _object(draw: _Draw, depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"} if draw.random() < 0.8 else {}
    names = draw.sample(_NAMES, draw.randint(0, 4))
    schema["properties"] = {name: _schema(draw, depth) for name in names}
    schema["required"] = draw.sample(_NAMES if draw.random() < 0.1 else names, draw.randint(0, len(names)))
    if draw.random() < 0.4:
        schema["additionalProperties"] = draw.choice((True, False, _schema(draw, depth)))
    if draw.random() < 0.1:
        schema["patternProperties"] = {"^p_": _schema(draw, depth)}
    if draw.random() < 0.1:
        schema |= {"minProperties": draw.randint(0, 1)}
    return schema


def _combination(draw: _Draw, depth: int) -> dict[str, Any]:
    kind = draw.choice(("anyOf", "oneOf", "allOf", "tagged", "$ref", "beside"))
    if kind == "$ref":
        return {"$ref": f"#/$defs/{draw.choice('xy')}"}
    if kind == "beside":
        return _object(draw, depth) | {"anyOf": [{"required": ["a"]}, _object(draw, depth)]}
    if kind == "tagged":
        branches = [_object(draw, depth) for _ in range(2)]
        for number, branch in enumerate(branches):
            branch["properties"]["kind"] = {"const": number}
        return {"oneOf": branches, "discriminator": {"propertyName": "kind"}}
    if kind == "allOf":
        make = draw.choice((_number, _string, lambda draw: _object(draw, depth)))
        return {"allOf": [make(draw) for _ in range(2)]}
    return {kind: [_schema(draw, depth) for _ in range(draw.randint(1, 3))]}


def _schema(draw: _Draw, depth: int) -> dict[str, Any]:
    simple = (_number, _string, _literal, lambda draw: {"type": draw.choice(("null", "boolean"))})
    if depth == 0 or draw.random() < 0.35:
        return draw.choice(simple)(draw)
    return draw.choice((_array, _object, _combination))(draw, depth - 1)


def _document(seed: int) -> dict[str, Any]:
    draw = random.Random(seed)
    tree = {"type": "object", "properties": {"v": _schema(draw, 0), "t": {"anyOf": [{"$ref": "#/$defs/x"}, {}]}}}
    return _schema(draw, 3) | {"$defs": {"x": tree, "y": _schema(draw, 1)}}


def test_every_answer_is_valid(write: Callable[..., str | None]) -> None:
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    n_refused = n_unfinished = n_valid = 0
    for seed in range(N_SCHEMAS):
        schema = _document(seed)
        try:
            read_schema(schema)
        except JsonSchemaError:
            n_refused += 1
            continue
        validator = jsonschema.Draft202012Validator(schema, format_checker=checker)
        for number in range(N_ANSWERS):
            text = write(schema, number)
            if text is None:
                n_unfinished += 1
                continue
            fault = jsonschema.exceptions.best_match(validator.iter_errors(json.loads(text)))
            assert fault is None, f"seed {seed}: {text} is not an answer of {json.dumps(schema)}: {fault.message}"
            n_valid += 1
    assert n_refused < N_SCHEMAS / 4
    assert n_unfinished < N_SCHEMAS * N_ANSWERS / 4
    assert n_valid > N_SCHEMAS * N_ANSWERS / 2
