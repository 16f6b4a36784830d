"""The keywords of a JSON schema that contain no schemas, as llguidance is given them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from edge_llava.runtime.language.json_schema_error import JsonSchemaError, Path

MAX_DEPTH = 48
_MAX_ELEMENTS = 2000  # of one array: anyOf, enum
LARGEST = 2**53 - 1  # every integer up to here is exact in llguidance, and in every reader of JSON
_MAX_MULTIPLE = 10_000  # llguidance follows every remainder
_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
_ANNOTATIONS = {
    "title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly", "$schema", "$id",
    "$comment", "$defs", "definitions", "discriminator", "contentEncoding", "contentMediaType", "nullable",
}  # fmt: skip
# The most that each may be. Of two equal names in an object only one counts: no larger minimum than 1 is certain.
_COUNTS = dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems", "maxProperties"), 1_000_000)
_COUNTS["minProperties"] = 1
_NUMBERS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", *_COUNTS}
_FEBRUARY_29 = r"(([0-9]{2}(0[48]|[2468][048]|[13579][26]))|([02468][048]|[13579][26])00)-02-29"
_DATE = (
    r"([0-9]{4}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
    rf"|{_FEBRUARY_29})"
)
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
_LABEL = r"[a-zA-Z0-9](-?[a-zA-Z0-9]){0,30}"  # of a host name: 61 characters at most
# Stricter than llguidance's own where those let pass what is refused elsewhere, as 2023-02-29; None takes its own.
_FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "email": rf"[a-zA-Z0-9_+-]{{1,20}}(\.[a-zA-Z0-9_+-]{{1,20}}){{0,2}}@{_LABEL}(\.{_LABEL}){{0,2}}",
    "hostname": rf"{_LABEL}(\.{_LABEL}){{0,3}}",
    "uuid": "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
    **dict.fromkeys(("duration", "ipv4", "ipv6", "uri")),
}
# What Rust's regex engine, which llguidance uses, reads differently from JavaScript's; searched without escapes.
_FOREIGN = re.compile(r"\(\?(?!:|<[A-Za-z_])[^)]?|\{,|\[\^?\]|\[[^\]]*?(\[|&&|--|~~)")
_FOREIGN_ESCAPES = re.compile(r"\\[<>AbBz]")


def read_keyword(key: str, value: Any, path: Path) -> dict[str, Any]:
    """What llguidance is given for a keyword at `path`; empty for what has no effect, as a bound of null.

    Raises:
        JsonSchemaError: If the keyword is unknown, or its value cannot be enforced.
    """
    if key in _ANNOTATIONS or key.startswith("x-"):
        return {}
    if key in _NUMBERS:
        return {} if value is None else {key: _read_number(key, value, path)}
    match key:
        case "const":
            return {key: _read_constant(value, path)}
        case "enum":
            return {key: [_read_constant(one, path) for one in read_list(value, path)]}
        case "required":
            if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
                raise JsonSchemaError(path, "must be an array of strings")
            return {key: value} if value else {}
        case "pattern":
            return {key: _read_pattern(value, path)}
        case "format":
            if not isinstance(value, str) or value not in _FORMATS:
                raise JsonSchemaError(path, f"must be one of {', '.join(_FORMATS)}")
            pattern = _FORMATS[value]
            return {key: value} if pattern is None else {"pattern": f"^({pattern})$"}
        case "propertyNames" if value not in (True, {}, {"type": "string"}):
            raise JsonSchemaError(path, "is not supported; use patternProperties")
        case "propertyNames":
            return {}
        case "uniqueItems" if value is False:
            return {}
    raise JsonSchemaError(path, "is not supported")


def read_types(schema: Mapping[str, Any], path: Path) -> list[str]:
    """The types of a schema that has some; `nullable` is OpenAPI's."""
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if not kinds or len(kinds) > len(_TYPES) or any(kind not in _TYPES for kind in kinds):
        raise JsonSchemaError(path, f"must be one of {', '.join(_TYPES)}, or an array of them")
    return [*kinds, "null"] if schema.get("nullable") is True else kinds


def read_list(value: Any, path: Path) -> list[Any]:
    """An array that may not be empty."""
    if not isinstance(value, list) or not value:
        raise JsonSchemaError(path, "must be an array with at least one element")
    if len(value) > _MAX_ELEMENTS:
        raise JsonSchemaError(path, f"has {len(value)} elements; the limit is {_MAX_ELEMENTS}")
    return value


def _read_number(key: str, value: Any, path: Path) -> int | float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise JsonSchemaError(path, "must be a number")
    if key == "multipleOf":
        text = f"{Decimal(repr(value)).normalize():f}"
        if value <= 0 or int(text.replace(".", "")) > _MAX_MULTIPLE or len(text.partition(".")[2]) > 6:
            raise JsonSchemaError(path, f"must be from 0.000001 to {_MAX_MULTIPLE}, of at most 4 digits")
        return value
    if limit := _COUNTS.get(key):
        if value < 0 or value != int(value) or (key.startswith("min") and value > limit):
            raise JsonSchemaError(path, f"must be an integer from 0 to {limit}")
        return min(int(value), limit)  # 3.0 is an integer, too
    sign = 1 if key.endswith("aximum") else -1
    if value * sign < -LARGEST:
        raise JsonSchemaError(path, f"must be from {-LARGEST} to {LARGEST}")
    return sign * min(value * sign, LARGEST)


def _read_constant(value: Any, path: Path, depth: int = MAX_DEPTH) -> Any:
    """A value that answers may have to repeat."""
    if depth == 0:
        raise JsonSchemaError(path, f"is nested too deeply: {MAX_DEPTH} levels are the limit")
    if isinstance(value, (int, float)) and abs(value) > LARGEST:
        raise JsonSchemaError(path, f"must not contain numbers beyond {LARGEST}")
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _read_constant(inner, path, depth - 1)
    return value


def _read_pattern(pattern: Any, path: Path) -> str:
    if not isinstance(pattern, str):
        raise JsonSchemaError(path, "must be a string")
    found = _FOREIGN.search(re.sub(r"\\.", "", pattern)) or _FOREIGN_ESCAPES.search(pattern.replace(r"\\", ""))
    if found:
        raise JsonSchemaError(path, f"contains {found[0]!r}, which is not supported")
    return pattern
