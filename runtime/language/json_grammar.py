"""JSON schemas as llama.cpp grammars (GBNF): an answer that follows the grammar is JSON that the schema accepts.

What a grammar cannot hold an answer to is refused, not ignored. Objects are closed: only the properties that are listed
are written, in their order; that is JSON Schema's `additionalProperties: false`, and what is not listed is optional.

Source: llama.cpp's grammars/README.md for the notation, JSON Schema 2020-12 for the keywords.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from edge_llava.home.unicode_text import is_unicode
from edge_llava.runtime.language.grammar_readings import TooLarge
from edge_llava.runtime.language.grammar_rules import MAX_BYTES, GrammarRules
from edge_llava.runtime.language.integer_range import integer_rule

_MAX_DEPTH = 48
_MAX_SCHEMAS = 2000
_MAX_REPEATS = 1000
_ANNOTATIONS = {
    "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$schema", "$id", "$comment",
    "$defs", "definitions", "discriminator", "contentEncoding", "contentMediaType",
}  # fmt: skip
_KEYWORDS = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "prefixItems", "minItems", "maxItems", "uniqueItems"},
    "string": {"minLength", "maxLength", "format"},
    "integer": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
}
_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
_CLASSES = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
_FORMATS = ("date", "time", "date-time", "uuid")
_Path = tuple[str, ...]


class SchemaFault(ValueError):
    """A schema that no grammar can be made of; the message follows the place."""

    def __init__(self, path: _Path, message: str) -> None:
        super().__init__(message)
        self.path = path


def object_grammar() -> str:
    """The grammar of any JSON object."""
    rules = GrammarRules()
    return rules.write(rules.primitive("object"))


def schema_grammar(schema: Mapping[str, Any]) -> str:
    """The grammar of what a schema accepts.

    Raises:
        SchemaFault: If it is no schema, or asks for what a grammar cannot hold an answer to, or is too large.
    """
    try:
        compiler = _Compiler(schema)
        return compiler.rules.write(compiler.visit(schema, ()))
    except TooLarge as error:
        raise SchemaFault((), str(error)) from error


class _Compiler:
    """Rules of one schema document."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.rules = GrammarRules()
        self._document = document
        self._references: dict[str, str] = {}
        self._n_visited = self._depth = self._n_written = 0

    def visit(self, schema: Any, path: _Path) -> str:
        """The name of the rule of a schema."""
        self._n_visited += 1
        if self._depth > _MAX_DEPTH or self._n_visited > _MAX_SCHEMAS:
            raise SchemaFault(path, f"goes too far: {_MAX_SCHEMAS} schemas, {_MAX_DEPTH} deep, are the limit")
        self._depth += 1
        try:
            return self._visit(schema, path)
        finally:
            self._depth -= 1

    def _visit(self, schema: Any, path: _Path) -> str:
        if schema is True:
            return self.rules.primitive("value")
        if not isinstance(schema, dict):
            raise SchemaFault(path, "must be an object")
        if "$ref" in schema:
            return self._refer(schema, path)
        for key in ("anyOf", "oneOf"):
            if key in schema:
                return self._any_of(schema, key, path)
        if "allOf" in schema:
            return self._all_of(schema, path)
        if "const" in schema or "enum" in schema:
            return self._literals(schema, path)
        return self._typed(schema, path)

    def _refer(self, schema: Mapping[str, Any], path: _Path) -> str:
        pointer = schema["$ref"]
        _refuse_others(schema, {"$ref"}, path)
        if not isinstance(pointer, str) or not (pointer == "#" or pointer.startswith("#/")):
            raise SchemaFault((*path, "$ref"), "must point into this schema: '#/$defs/NAME'")
        if pointer not in self._references:
            # named before it is visited: it may refer to itself
            self._references[pointer] = name = self.rules.reserve()
            self.rules.define(name, self.visit(self._look_up(pointer, path), path))
        return self._references[pointer]

    def _look_up(self, pointer: str, path: _Path) -> Any:
        found: Any = self._document
        for part in pointer.split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, dict) or key not in found:
                raise SchemaFault((*path, "$ref"), f"points to {pointer[:80]}, where nothing is")
            found = found[key]
        return found

    def _any_of(self, schema: Mapping[str, Any], key: str, path: _Path) -> str:
        _refuse_others(schema, {key}, path)
        return self._alternatives(_list(schema, key, path), (*path, key))

    def _alternatives(self, schemas: Sequence[Any], path: _Path) -> str:
        names = [self.visit(schema, (*path, str(index))) for index, schema in enumerate(schemas)]
        return self.rules.choice(names)

    def _all_of(self, schema: Mapping[str, Any], path: _Path) -> str:
        _refuse_others(schema, {"allOf"}, path)
        parts = _list(schema, "allOf", path)
        if len(parts) != 1:
            raise SchemaFault((*path, "allOf"), "may hold one schema only")
        return self.visit(parts[0], (*path, "allOf", "0"))

    def _literals(self, schema: Mapping[str, Any], path: _Path) -> str:
        key = "const" if "const" in schema else "enum"
        _refuse_others(schema, {key, "type"}, path)
        kinds = _types(schema, path) if "type" in schema else _TYPES
        values = [schema["const"]] if key == "const" else _list(schema, "enum", path)
        fitting = [value for value in values if any(_is_of(kind, value) for kind in kinds)]
        if not fitting:
            raise SchemaFault((*path, key), f"holds nothing of type {', '.join(kinds)}")
        return self.rules.literals([self._to_json(value, (*path, key)) for value in fitting])

    def _typed(self, schema: Mapping[str, Any], path: _Path) -> str:
        kinds = _types(schema, path) if "type" in schema else _guess_types(schema)
        _refuse_others(schema, {"type"}.union(*(_KEYWORDS.get(kind, set()) for kind in kinds)), path)
        if not kinds:
            return self.rules.primitive("value")
        return self.rules.choice([self._of_type(kind, schema, path) for kind in kinds])

    def _of_type(self, kind: str, schema: Mapping[str, Any], path: _Path) -> str:
        if kind == "object":
            return self._object(schema, path)
        if kind == "array":
            return self._array(schema, path)
        if kind == "string":
            return self._string(schema, path)
        if kind == "integer" and _KEYWORDS["integer"] & schema.keys():
            return self._integer(schema, path)
        return self.rules.primitive(kind)

    def _object(self, schema: Mapping[str, Any], path: _Path) -> str:
        properties = schema.get("properties", {})
        extra = schema.get("additionalProperties", True)
        if not isinstance(properties, dict):
            raise SchemaFault((*path, "properties"), "must be an object")
        required = _required(schema, properties, path)
        if properties:
            pairs = []
            for name, value in properties.items():
                key = self._to_json(name, (*path, "properties"))
                pairs.append(self.rules.pair(key, self.visit(value, (*path, "properties", name))))
            return self.rules.fields(pairs, [name in required for name in properties])
        if extra is False:
            return self.rules.fields([], [])
        if extra is True:
            return self.rules.primitive("object")
        return self.rules.mapping(self.visit(extra, (*path, "additionalProperties")))

    def _array(self, schema: Mapping[str, Any], path: _Path) -> str:
        if schema.get("uniqueItems", False) is not False:
            raise SchemaFault((*path, "uniqueItems"), "is not supported")
        low, high = self._bounds(schema, "minItems", "maxItems", path)
        if "prefixItems" not in schema:
            item = self.visit(schema.get("items", True), (*path, "items"))
            return self.rules.items(item, low, high)
        names = [
            self.visit(item, (*path, "prefixItems", str(index)))
            for index, item in enumerate(_list(schema, "prefixItems", path))
        ]
        if schema.get("items", False) is not False or low > len(names) or (high is not None and high < len(names)):
            raise SchemaFault((*path, "prefixItems"), "must be all of the array's items")
        return self.rules.tuple(names)

    def _string(self, schema: Mapping[str, Any], path: _Path) -> str:
        low, high = self._bounds(schema, "minLength", "maxLength", path)
        wanted = schema.get("format")
        if wanted is not None and not isinstance(wanted, str):
            raise SchemaFault((*path, "format"), "must be a string")
        if wanted in _FORMATS:
            if low or high is not None:
                raise SchemaFault((*path, "format"), "and a length together are not supported")
            return self.rules.primitive(wanted)
        return self.rules.string(low, high)

    def _integer(self, schema: Mapping[str, Any], path: _Path) -> str:
        most, says = 10**15 - 1, "must be an integer of at most 15 digits"
        bounds = {key: _whole(schema, key, path, -most, most, says) for key in _KEYWORDS["integer"]}
        lows = [bounds["minimum"], None if bounds["exclusiveMinimum"] is None else bounds["exclusiveMinimum"] + 1]
        highs = [bounds["maximum"], None if bounds["exclusiveMaximum"] is None else bounds["exclusiveMaximum"] - 1]
        low = max((value for value in lows if value is not None), default=None)
        high = min((value for value in highs if value is not None), default=None)
        if low is None and high is None:
            return self.rules.primitive("integer")
        if low is not None and high is not None and low > high:
            raise SchemaFault(path, "allows no integer")
        return self.rules.number(integer_rule(low, high))

    def _bounds(self, schema: Mapping[str, Any], low_key: str, high_key: str, path: _Path) -> tuple[int, int | None]:
        says = f"must be an integer from 0 to {_MAX_REPEATS}"
        low = _whole(schema, low_key, path, 0, _MAX_REPEATS, says) or 0
        high = _whole(schema, high_key, path, 0, _MAX_REPEATS, says)
        if high is not None and high < low:
            raise SchemaFault((*path, high_key), f"is less than {low_key}")
        return low, high

    def _to_json(self, value: Any, path: _Path) -> str:
        _refuse_deep(value, path)
        try:
            text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        except ValueError as error:
            raise SchemaFault(path, "holds a number that JSON has not") from error
        if not is_unicode(text):
            raise SchemaFault(path, "holds halves of characters (surrogates)")
        self._n_written += len(text)  # a schema may be visited by many ways
        if self._n_written > MAX_BYTES:
            raise SchemaFault(path, f"makes a grammar of {self._n_written} bytes; the limit is {MAX_BYTES}")
        return text


def _types(schema: Mapping[str, Any], path: _Path) -> tuple[str, ...]:
    kinds = _short(schema["type"], (*path, "type")) if isinstance(schema["type"], list) else [schema["type"]]
    if not kinds or any(not isinstance(kind, str) or kind not in _TYPES for kind in kinds):
        raise SchemaFault((*path, "type"), f"must be of {', '.join(_TYPES)}")
    return tuple(dict.fromkeys(kinds))


def _guess_types(schema: Mapping[str, Any]) -> tuple[str, ...]:
    """The type that the keywords of a schema without one are about; none where there are no keywords."""
    return tuple(kind for kind, keywords in _KEYWORDS.items() if keywords & schema.keys())[:1]


def _is_of(kind: str, value: Any) -> bool:
    if kind == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    if kind == "number":
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, _CLASSES[kind])


def _list(schema: Mapping[str, Any], key: str, path: _Path) -> list[Any]:
    value = schema[key]
    if not isinstance(value, list) or not value:
        raise SchemaFault((*path, key), "must be an array that is not empty")
    return _short(value, (*path, key))


def _short(value: list[Any], path: _Path) -> list[Any]:
    """Lengths come first: what walks over a list must not be kept busy by it."""
    if len(value) > _MAX_SCHEMAS:
        raise SchemaFault(path, f"goes too far: {len(value)} of at most {_MAX_SCHEMAS}")
    return value


def _required(schema: Mapping[str, Any], properties: Mapping[str, Any], path: _Path) -> set[str]:
    names, here = schema.get("required", []), (*path, "required")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in _short(names, here)):
        raise SchemaFault(here, "must be an array of strings")
    if missing := [name for name in names if name not in properties]:
        raise SchemaFault(here, f"names {missing[0][:80]!r}, which is no property")
    return set(names)


def _whole(schema: Mapping[str, Any], key: str, path: _Path, lowest: int, highest: int, says: str) -> int | None:
    """A bound; null is as if not given, and 3.0 is an integer in JSON Schema."""
    value = schema.get(key)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
        raise SchemaFault((*path, key), says)
    return value


def _refuse_deep(value: Any, path: _Path) -> None:
    """Level by level: Python's own way down ends at some 1,000."""
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    if level:
        raise SchemaFault(path, f"goes too far: {_MAX_DEPTH} deep is the limit")


def _refuse_others(schema: Mapping[str, Any], known: set[str], path: _Path) -> None:
    if others := schema.keys() - known - _ANNOTATIONS:
        raise SchemaFault((*path, min(others)), "is not supported here")
