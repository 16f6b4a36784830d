"""JSON schemas, checked keyword by keyword and rewritten for llguidance, which then enforces them token by token.

What cannot be enforced is refused with its place, never ignored. The rewritten schema accepts nothing that the original
refuses, but may accept less, so that answers stay short: an object that lists its properties has no others, an array
that lists its first items has exactly those, and numbers have at most 16 digits before and 9 after the point.

Source: JSON Schema 2020-12; llguidance's docs/json_schema.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from typing import Any, NamedTuple
from urllib.parse import unquote

from edge_llava.runtime.language.json_schema_error import JsonSchemaError, Path
from edge_llava.runtime.language.json_values import LARGEST, MAX_DEPTH, read_keyword, read_list, read_types

_MAX_BYTES = 256 * 1024
_MAX_SCHEMAS = 1000
_MAX_OPTIONAL = 100  # each of them may come next in an object: llguidance follows all ways at once
_MAX_SUSPECTS = 5  # are looked at to find the place of a fault
_SMALLEST_STEP = 1e-9
ANY_OBJECT = {"type": "object"}
# Keywords that speak of values of one kind only.
_KEYWORDS = {
    "object": {
        "properties", "required", "additionalProperties", "patternProperties", "minProperties", "maxProperties",
        "propertyNames",
    },
    "array": {"items", "prefixItems", "minItems", "maxItems", "uniqueItems"},
    "string": {"minLength", "maxLength", "pattern", "format"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
}  # fmt: skip
_COMBINING = {"anyOf", "oneOf", "allOf", "$ref"}
_CONSTANTS = {"const", "enum"}
_IN_PLACE = _COMBINING | _CONSTANTS  # llguidance wants all others first, and together
_SUSPECTS = {"allOf", "enum", "patternProperties", "minProperties", "minItems"}
_SUSPECTS |= _KEYWORDS["string"] | _KEYWORDS["number"]


def read_schema(schema: Mapping[str, Any] | str) -> str:
    """A schema, given as JSON values or as JSON text, as compact JSON text.

    Raises:
        JsonSchemaError: If it is not a schema, asks for what cannot be enforced, or is too large.
    """
    try:
        values = json.loads(schema) if isinstance(schema, str) else schema
        if not isinstance(values, Mapping):
            raise JsonSchemaError((), "must be an object")
        text = json.dumps(dict(values), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        n_bytes = len(text.encode())
        if n_bytes > _MAX_BYTES:
            raise JsonSchemaError((), f"has {n_bytes} bytes; the limit is {_MAX_BYTES}")
        strict_schema(text)
        return text
    except JsonSchemaError:
        raise
    except UnicodeEncodeError as error:
        raise JsonSchemaError((), "contains unpaired surrogates, which are not valid text") from error
    except RecursionError as error:
        raise JsonSchemaError((), f"is nested too deeply: {MAX_DEPTH} levels are the limit") from error
    except (TypeError, ValueError) as error:
        raise JsonSchemaError((), f"is not JSON: {error}") from error


@lru_cache(maxsize=16)
def strict_schema(text: str) -> Mapping[str, Any]:
    """What llguidance is given for a schema.

    Raises:
        JsonSchemaError: As `read_schema`.
    """
    from edge_llava.runtime.language.json_grammar import find_fault

    rewriter = _Rewriter(json.loads(text))
    schema = rewriter.rewrite()
    one_ofs = rewriter.sketch_one_ofs()
    together = {"prefixItems": [part for _, part in one_ofs]}
    for whole, places in ((together, one_ofs), (schema, rewriter.suspects)):
        if fault := find_fault(whole):
            for path, part in places[:_MAX_SUSPECTS]:
                if inner := find_fault({**part, "$defs": schema["$defs"]}):
                    raise JsonSchemaError(path, f"cannot be enforced: {inner}")
            raise JsonSchemaError((), f"cannot be enforced: {fault}")
    return schema


class _How(NamedTuple):
    """How a schema is rewritten.

    Attributes:
        is_whole: Whether no other schema describes the same value; what another lists must not be excluded.
        tags: Properties to be required where they are listed, as they tell the branches of a oneOf apart.
    """

    is_whole: bool = True
    tags: tuple[str, ...] = ()


_ALONE = _How()


class _Rewriter:
    """Rewrites one document.

    Attributes:
        suspects: (path, rewritten schema) of the places where llguidance may find faults of its own.
    """

    def __init__(self, document: Any) -> None:
        self.suspects: list[tuple[Path, dict[str, Any]]] = []
        self._document = document
        self._names: dict[tuple[str, _How], str] = {}
        self._definitions: dict[str, Any] = {}
        self._one_ofs: list[tuple[Path, list[Any], tuple[str, ...]]] = []
        self._n_visited = self._depth = 0

    def rewrite(self) -> dict[str, Any]:
        """The whole document: every reference points into its `$defs`."""
        root = self._refer("#", (), _ALONE)
        graph = {f"#/$defs/{name}": _references(schema) for name, schema in self._definitions.items()}
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            raise JsonSchemaError((), "refers to itself without anything in between") from error
        return {**root, "$defs": self._definitions}

    def sketch_one_ofs(self) -> list[tuple[Path, dict[str, Any]]]:
        """(path, sketch) of all places whose branches must exclude each other, after `rewrite`."""
        return [
            (path, {"oneOf": [self._sketch(branch, path, tags) for branch in branches]})
            for path, branches, tags in self._one_ofs
        ]

    def _visit(self, schema: Any, path: Path, how: _How = _ALONE) -> Any:
        self._count(path)
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise JsonSchemaError(path, "must be an object")
        combining = schema.keys() & _COMBINING
        is_alone = len(combining) == 1 and not schema.keys() & (_KEYWORDS["object"] | _KEYWORDS["array"])
        inner = how._replace(is_whole=how.is_whole and is_alone)
        made: dict[str, Any] = {}
        self._depth += 1
        for key in sorted(schema, key=lambda key: key in _IN_PLACE):
            for name, value in self._read(key, schema, (*path, key), inner).items():
                if name in made:
                    made.setdefault("allOf", []).append({name: value})
                else:
                    made[name] = value
        self._depth -= 1
        if how.is_whole and not schema.keys() & _IN_PLACE:
            _narrow(made, schema)
        names = made.get("properties", {}).keys()
        if tagged := names & set(how.tags):
            made["required"] = [*made.get("required", []), *sorted(tagged)]
        if len(names - set(made.get("required", []))) > _MAX_OPTIONAL:
            raise JsonSchemaError((*path, "properties"), f"may contain at most {_MAX_OPTIONAL} that are not required")
        if schema.keys() & _SUSPECTS:
            self.suspects.append((path, made))
        return made

    def _read(self, key: str, schema: dict[str, Any], path: Path, how: _How) -> dict[str, Any]:
        """Rewrites a keyword; other schemas of the same value are visited as `how` says."""
        value = schema[key]
        match key:
            case "type":
                return {key: read_types(schema, path)}
            case "items" | "additionalProperties":
                return {key: self._visit(value, path)}
            case "properties" | "patternProperties":
                if not isinstance(value, dict):
                    raise JsonSchemaError(path, "must be an object")
                return {key: {name: self._visit(inner, (*path, name)) for name, inner in value.items()}}
            case "prefixItems":
                return {key: self._visit_all(value, path, _ALONE)}
            case "$ref":
                return self._refer(value, path, how)
            case "anyOf":
                return {key: self._visit_all(value, path, how)}
            case "allOf":
                how = how._replace(is_whole=how.is_whole and len(read_list(value, path)) == 1)
                return {key: self._visit_all(value, path, how)}
            case "oneOf":
                how = how._replace(tags=(*how.tags, *_tag(schema)))
                self._one_ofs.append((path, value, how.tags))
                return {"anyOf": self._visit_all(value, path, how)}
        return read_keyword(key, value, path)

    def _visit_all(self, schemas: Any, path: Path, how: _How) -> list[Any]:
        return [self._visit(schema, (*path, str(i)), how) for i, schema in enumerate(read_list(schemas, path))]

    def _sketch(self, schema: Any, path: Path, tags: Sequence[str]) -> Any:
        """What tells values of a visited schema from others, written out: llguidance compares without references.

        Unlike the rewritten schema, it accepts all that the original does, but for values without `tags`.
        """
        self._count(path)
        if isinstance(schema, bool):
            return schema
        made, listed = _constants(schema), schema.get("properties", {})
        made["properties"] = {name: _constants(inner) for name, inner in listed.items()}
        made["required"] = [*schema.get("required", []), *(tag for tag in tags if tag in listed)]
        if schema.get("additionalProperties") is False and "patternProperties" not in schema:
            made["additionalProperties"] = False
        choices = [schema[key] for key in ("anyOf", "oneOf") if key in schema]
        choices += [[part] for part in schema.get("allOf", [])]
        choices += [[self._look_up(schema["$ref"], path)]] if "$ref" in schema else []
        made["allOf"] = [{"anyOf": [self._sketch(part, path, tags) for part in parts]} for parts in choices]
        return made

    def _count(self, path: Path) -> None:
        self._n_visited += 1
        if self._depth > MAX_DEPTH or self._n_visited > _MAX_SCHEMAS:
            raise JsonSchemaError(path, f"is too large: at most {_MAX_SCHEMAS} subschemas, {MAX_DEPTH} levels deep")

    def _refer(self, pointer: Any, path: Path, how: _How) -> dict[str, Any]:
        target = self._look_up(pointer, path)
        name = self._names.get((pointer, how))
        if name is None:
            # named before it is visited: it may refer to itself
            self._names[pointer, how] = name = str(len(self._names))
            self._definitions[name] = self._visit(target, path, how)
        return {"$ref": f"#/$defs/{name}"}

    def _look_up(self, pointer: Any, path: Path) -> Any:
        if not isinstance(pointer, str) or not (pointer == "#" or pointer.startswith("#/")):
            raise JsonSchemaError(path, "must point into this schema: '#/$defs/NAME'")
        found = self._document
        for part in pointer.split("/")[1:]:
            key = unquote(part).replace("~1", "/").replace("~0", "~")
            inner = {str(i): value for i, value in enumerate(found)} if isinstance(found, list) else found
            if not isinstance(inner, dict) or key not in inner:
                raise JsonSchemaError(path, f"points to {pointer[:80]}, which does not exist")
            found = inner[key]
        return found


def _narrow(made: dict[str, Any], schema: Mapping[str, Any]) -> None:
    """Excludes what makes answers long, where a rewritten schema leaves the choice."""
    kinds = made.get("type") or [kind for kind, keywords in _KEYWORDS.items() if keywords & schema.keys()][:1]
    if kinds:
        made["type"] = kinds
    says_more = made.keys() & {"additionalProperties", "patternProperties"}
    names = made.get("properties", {}).keys()
    if names and not says_more and names >= set(made.get("required", [])):
        made["additionalProperties"] = False
    if "prefixItems" in made and not made.keys() & {"items", "minItems", "maxItems"}:
        made |= {"items": False, "minItems": len(made["prefixItems"])}
    if "number" in kinds:
        made.setdefault("multipleOf", _SMALLEST_STEP)
    if {"number", "integer"} & set(kinds) and not made.keys() & {"minimum", "exclusiveMinimum"}:
        made["minimum"] = -LARGEST
    if {"number", "integer"} & set(kinds) and not made.keys() & {"maximum", "exclusiveMaximum"}:
        made["maximum"] = LARGEST


def _references(schema: Any) -> set[str]:
    """Those of a rewritten schema that describe the same value."""
    if isinstance(schema, bool):
        return set()
    parts = [*schema.get("anyOf", []), *schema.get("allOf", [])]
    own = {schema["$ref"]} if "$ref" in schema else set[str]()
    return own.union(*map(_references, parts))


def _constants(schema: Any) -> dict[str, Any]:
    if isinstance(schema, bool):
        return {}
    types = {"type": read_types(schema, ())} if "type" in schema else {}
    return types | {key: schema[key] for key in _CONSTANTS if key in schema}


def _tag(schema: Mapping[str, Any]) -> tuple[str, ...]:
    """The property that OpenAPI's `discriminator` names."""
    discriminator = schema.get("discriminator")
    tag = discriminator.get("propertyName") if isinstance(discriminator, dict) else None
    return (tag,) if isinstance(tag, str) else ()
