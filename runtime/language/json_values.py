"""The keywords of a JSON schema about one text, number, count or constant, as llguidance is given them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from edge_llava.runtime.language.json_schema_error import JsonSchemaError, Path

_LARGEST = 2**53 - 1  # every integer up to here is exact in llguidance, and in every reader of JSON
_SMALLEST_STEP = 1e-9
_MAX_COUNT = 1_000_000
_MAX_MULTIPLE = 10_000  # llguidance follows every remainder
_LOWER, _UPPER = ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")
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
    "duration": None,
    "ipv4": None,
    "ipv6": None,
    "uri": None,
}
# What Rust's regex engine, which llguidance uses, reads differently from JavaScript's; searched without escapes.
_FOREIGN = re.compile(r"\(\?(?!:|<[A-Za-z_])[^)]?|\{,|\[\^?\]|\[[^\]]*?(\[|&&|--|~~)")
_FOREIGN_ESCAPES = re.compile(r"\\[<>AbBz]")


def string_keywords(schema: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Those about strings."""
    made: dict[str, Any] = read_count(schema, "minLength", path) | read_count(schema, "maxLength", path)
    if "pattern" in schema:
        made["pattern"] = _check_pattern(schema["pattern"], (*path, "pattern"))
    if "format" in schema:
        wanted = schema["format"]
        if not isinstance(wanted, str) or wanted not in _FORMATS:
            raise JsonSchemaError((*path, "format"), f"must be one of {', '.join(_FORMATS)}")
        pattern = _FORMATS[wanted]
        if pattern is None:
            made["format"] = wanted
        elif "pattern" in made:
            made["allOf"] = [{"pattern": f"^({pattern})$"}]
        else:
            made["pattern"] = f"^({pattern})$"
    return made


def number_keywords(schema: Mapping[str, Any], path: Path, kinds: Sequence[str], *, is_narrow: bool) -> dict[str, Any]:
    """Those about numbers, and bounds and steps where there are none, so that every number ends."""
    made: dict[str, Any] = {}
    for key in (*_LOWER, *_UPPER):
        value = _number(schema, key, path)
        if value is None:
            continue
        sign = 1 if key in _UPPER else -1
        if value * sign < -_LARGEST:
            raise JsonSchemaError((*path, key), f"must be from {-_LARGEST} to {_LARGEST}")
        made[key] = sign * min(value * sign, _LARGEST)
    step = _number(schema, "multipleOf", path)
    if step is not None:
        made["multipleOf"] = _check_step(step, (*path, "multipleOf"))
    if not is_narrow or not {"number", "integer"} & set(kinds):
        return made
    if not made.keys() & set(_LOWER):
        made["minimum"] = -_LARGEST
    if not made.keys() & set(_UPPER):
        made["maximum"] = _LARGEST
    if "number" in kinds and step is None:
        made["multipleOf"] = _SMALLEST_STEP
    return made


def read_count(schema: Mapping[str, Any], key: str, path: Path, *, limit: int = _MAX_COUNT) -> dict[str, Any]:
    """A count as the schema says it: {key: count}, or nothing. 3.0 is an integer in JSON Schema; null is as nothing."""
    value = _number(schema, key, path)
    if value is None:
        return {}
    is_lower = key.startswith("min")
    if value < 0 or value != int(value) or (is_lower and value > limit):
        raise JsonSchemaError((*path, key), f"must be an integer from 0 to {limit}")
    return {key: min(int(value), limit)}


def check_value(value: Any, path: Path, max_depth: int) -> Any:
    """A value that answers may have to repeat.

    Raises:
        JsonSchemaError: If it contains a number that llguidance does not keep, or is nested too deeply.
    """
    level = [value]
    for _ in range(max_depth):
        for one in level:
            if isinstance(one, (int, float)) and abs(one) > _LARGEST:
                raise JsonSchemaError(path, f"must not contain numbers beyond {_LARGEST}")
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    if level:
        raise JsonSchemaError(path, f"is nested too deeply: {max_depth} levels are the limit")
    return value


def _number(schema: Mapping[str, Any], key: str, path: Path) -> int | float | None:
    value = schema.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise JsonSchemaError((*path, key), "must be a number")
    return value


def _check_step(step: int | float, path: Path) -> int | float:
    _, digits, exponent = Decimal(repr(step)).normalize().as_tuple()
    digits_value = int("".join(map(str, digits))) * 10 ** max(0, int(exponent))
    if step <= 0 or digits_value > _MAX_MULTIPLE or int(exponent) < -6:
        raise JsonSchemaError(path, f"must be from 0.000001 to {_MAX_MULTIPLE}, of at most 4 digits")
    return step


def _check_pattern(pattern: Any, path: Path) -> str:
    if not isinstance(pattern, str):
        raise JsonSchemaError(path, "must be a string")
    found = _FOREIGN.search(re.sub(r"\\.", "", pattern)) or _FOREIGN_ESCAPES.search(pattern.replace(r"\\", ""))
    if found:
        raise JsonSchemaError(path, f"contains {found[0]!r}, which is not supported")
    return pattern
