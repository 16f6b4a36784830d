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
from typing import Any, Literal
from urllib.parse import unquote

from edge_llava.runtime.language.json_schema_error import JsonSchemaError, Path
from edge_llava.runtime.language.json_values import check_value, number_keywords, read_count, string_keywords

MAX_BYTES = 256 * 1024
MAX_DEPTH = 48
MAX_SCHEMAS = 1000
MAX_ELEMENTS = 2000  # of one array: anyOf, enum
MAX_OPTIONAL = 100  # each of them may come next in an object: llguidance follows all ways at once
ANY_OBJECT = {"type": "object"}
_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
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
_ANNOTATIONS = {
    "title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly", "$schema", "$id",
    "$comment", "$defs", "definitions", "discriminator", "contentEncoding", "contentMediaType", "nullable",
}  # fmt: skip
_SUSPECTS = {
    "allOf", "enum", "pattern", "patternProperties", "minProperties", "minimum", "exclusiveMinimum", "maxLength",
    "minItems",
}  # fmt: skip
_MAX_SUSPECTS = 5  # are looked at to find the place of a fault
_KNOWN = set().union({"type", "const", "enum"}, _COMBINING, _ANNOTATIONS, *_KEYWORDS.values())

# "narrow": as short answers want it. "part": other schemas describe the same value, so that this one must not exclude
# what they list. "wide": whatever the schema accepts, or more, with all that is inside; to compare branches.
_Mode = Literal["narrow", "part", "wide"]


def read_schema(schema: Mapping[str, Any] | str) -> str:
    """A schema as compact JSON text.

    Args:
        schema: The schema, as JSON values or as JSON text.

    Raises:
        JsonSchemaError: If it is not a schema, asks for what cannot be enforced, or is too large.
    """
    try:
        values = json.loads(schema) if isinstance(schema, str) else schema
        if not isinstance(values, Mapping):
            raise JsonSchemaError((), "must be an object")
        text = json.dumps(dict(values), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        n_bytes = len(text.encode())
        if n_bytes <= MAX_BYTES:
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
    raise JsonSchemaError((), f"has {n_bytes} bytes; the limit is {MAX_BYTES}")


@lru_cache(maxsize=16)
def strict_schema(text: str) -> str:
    """What llguidance is given for a schema: JSON text.

    Raises:
        JsonSchemaError: As `read_schema`.
    """
    from edge_llava.runtime.language.json_grammar import find_fault

    rewriter = _Rewriter(json.loads(text))
    schema = rewriter.rewrite()
    together = {str(number): part for number, (_, part) in enumerate(rewriter.one_ofs)}
    one_ofs = {"type": "object", "properties": together, "$defs": schema["$defs"]}
    for whole, places in ((one_ofs, rewriter.one_ofs), (schema, rewriter.suspects)):
        if fault := find_fault(whole):
            for path, part in places[:_MAX_SUSPECTS]:
                if inner := find_fault({**part, "$defs": schema["$defs"]}):
                    raise JsonSchemaError(path, f"cannot be enforced: {inner}")
            raise JsonSchemaError((), f"cannot be enforced: {fault}")
    return json.dumps(schema)


class _Rewriter:
    """Rewrites one document.

    Attributes:
        one_ofs: (path, {"oneOf": wide branches}) of all places whose branches must exclude each other.
        suspects: (path, rewritten schema) of the places where llguidance may find faults of its own.
    """

    def __init__(self, document: Any) -> None:
        self.one_ofs: list[tuple[Path, dict[str, Any]]] = []
        self.suspects: list[tuple[Path, dict[str, Any]]] = []
        self._document = document
        self._names: dict[tuple[str, _Mode], str] = {}
        self._definitions: dict[str, Any] = {}
        self._leads_to: dict[str, set[str]] = {}  # definitions, by references that describe the same value
        self._n_visited = self._depth = 0

    def rewrite(self) -> dict[str, Any]:
        """The whole document: every reference points into its `$defs`."""
        root = self._refer("#", (), None, "narrow")
        try:
            TopologicalSorter(self._leads_to).prepare()
        except CycleError as error:
            raise JsonSchemaError((), "refers to itself without anything in between") from error
        if self._definitions[self._names["#", "narrow"]] is False:
            raise JsonSchemaError((), "allows nothing")
        return {**root, "$defs": self._definitions}

    def _visit(self, schema: Any, path: Path, mode: _Mode, holder: str | None = None) -> Any:
        """Rewrites a schema.

        Args:
            schema: Any JSON value.
            path: Its place.
            mode: How.
            holder: The definition that describes the same value, if there is one.
        """
        self._n_visited += 1
        if self._depth > MAX_DEPTH or self._n_visited > MAX_SCHEMAS:
            raise JsonSchemaError(path, f"is too large: at most {MAX_SCHEMAS} subschemas, {MAX_DEPTH} levels deep")
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise JsonSchemaError(path, "must be an object")
        self._depth += 1
        made = self._combined(schema, path, mode, holder) if schema.keys() & _COMBINING else None
        made = self._plain(schema, path, mode) if made is None else made
        self._depth -= 1
        if made.keys() & _SUSPECTS:
            self.suspects.append((path, made))
        return made

    def _combined(self, schema: dict[str, Any], path: Path, mode: _Mode, holder: str | None) -> dict[str, Any]:
        own = {key: value for key, value in schema.items() if key not in _COMBINING}
        is_alone = len(schema.keys() & _COMBINING) == 1 and not own.keys() & (_KEYWORDS["object"] | _KEYWORDS["array"])
        as_part: _Mode = "wide" if mode == "wide" else "part"
        inner = mode if is_alone else as_part
        made, every = self._plain(own, path, as_part), []
        for key in [key for key in schema if key in _COMBINING]:  # in their order: it decides that of properties
            here = (*path, key)
            if key == "$ref":
                every.append(self._refer(schema[key], here, holder, inner))
            elif key == "oneOf":
                every.append(self._one_of(schema, here, inner, holder))
            else:
                parts = enumerate(_list(schema[key], here))
                how = as_part if key == "allOf" and len(schema[key]) > 1 else inner
                every.append({key: [self._visit(part, (*here, str(index)), how, holder) for index, part in parts]})
        if len(every) == 1 and not made.keys() & every[0].keys():
            return made | every[0]
        return {"allOf": [made, *every]}

    def _one_of(self, schema: dict[str, Any], path: Path, mode: _Mode, holder: str | None) -> dict[str, Any]:
        """As `anyOf`, once the wide branches are known to exclude each other; then whatever is narrower does, too.

        Branches are written out, as llguidance compares them without following references.
        """
        branches = []
        for index, branch in enumerate(_list(schema["oneOf"], path)):
            if isinstance(branch, dict) and "$ref" in branch and not branch.keys() - _ANNOTATIONS - {"$ref"}:
                branch = self._look_up(branch["$ref"], (*path, str(index), "$ref"))
            branches.append((branch, (*path, str(index))))
        wide = [self._visit(branch, place, "wide", holder) for branch, place in branches]
        self.one_ofs.append((path, {"oneOf": _with_tag(wide, schema)}))
        if mode == "wide":
            return {"anyOf": wide}
        return {"anyOf": _with_tag([self._visit(branch, place, mode, holder) for branch, place in branches], schema)}

    def _refer(self, pointer: Any, path: Path, holder: str | None, mode: _Mode) -> dict[str, Any]:
        target = self._look_up(pointer, path)
        name = self._names.get((pointer, mode))
        if name is None:
            # named before it is visited: it may refer to itself
            self._names[pointer, mode] = name = str(len(self._names))
            self._leads_to[name] = set()
            self._definitions[name] = self._visit(target, path, mode, name)
        if holder is not None:
            self._leads_to[holder].add(name)
        return {"$ref": f"#/$defs/{name}"}

    def _look_up(self, pointer: Any, path: Path) -> Any:
        if not isinstance(pointer, str) or not (pointer == "#" or pointer.startswith("#/")):
            raise JsonSchemaError(path, "must point into this schema: '#/$defs/NAME'")
        found = self._document
        for part in pointer.split("/")[1:]:
            key = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(found, dict) and key in found:
                found = found[key]
            elif isinstance(found, list) and key.isascii() and key.isdecimal() and int(key) < len(found):
                found = found[int(key)]
            else:
                raise JsonSchemaError(path, f"points to {pointer[:80]}, which does not exist")
        return found

    def _plain(self, schema: dict[str, Any], path: Path, mode: _Mode) -> dict[str, Any]:
        """A schema without its references and alternatives."""
        if unknown := [key for key in schema if key not in _KNOWN and not key.startswith("x-")]:
            raise JsonSchemaError((*path, unknown[0]), "is not supported")
        made: dict[str, Any] = {}
        is_narrow = mode == "narrow" and not schema.keys() & {"const", "enum"}
        kinds = _types(schema, path)
        if not kinds and is_narrow:
            kinds = [kind for kind, keywords in _KEYWORDS.items() if keywords & schema.keys()][:1]
        if kinds:
            made["type"] = [*kinds, "null"] if schema.get("nullable") is True and "null" not in kinds else kinds
        if "const" in schema:
            made["const"] = check_value(schema["const"], (*path, "const"), MAX_DEPTH)
        if "enum" in schema:
            values = _list(schema["enum"], (*path, "enum"))
            made["enum"] = [check_value(value, (*path, "enum"), MAX_DEPTH) for value in values]
        inside: _Mode = "wide" if mode == "wide" else "narrow"
        made |= self._object(schema, path, inside, is_narrow=is_narrow)
        made |= self._array(schema, path, inside, is_narrow=is_narrow)
        made |= string_keywords(schema, path)
        return made | number_keywords(schema, path, kinds, is_narrow=is_narrow)

    def _object(self, schema: dict[str, Any], path: Path, inside: _Mode, *, is_narrow: bool) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for key in ("properties", "patternProperties"):
            if key in schema:
                inner = _object(schema[key], (*path, key))
                made[key] = {name: self._visit(value, (*path, key, name), inside) for name, value in inner.items()}
        if "additionalProperties" in schema:
            extra = (*path, "additionalProperties")
            made["additionalProperties"] = self._visit(schema["additionalProperties"], extra, inside)
        required = _strings(schema.get("required", []), (*path, "required"))
        if required:
            made["required"] = required
        names = made.get("properties", {}).keys()
        if len(names - set(required)) > MAX_OPTIONAL:
            raise JsonSchemaError((*path, "properties"), f"may contain at most {MAX_OPTIONAL} that are not required")
        says_more = made.keys() & {"additionalProperties", "patternProperties"} or not names >= set(required)
        if names and not says_more and is_narrow:
            made["additionalProperties"] = False
        # of two equal names only one counts, so that no larger minimum is certain
        made |= read_count(schema, "minProperties", path, limit=1) | read_count(schema, "maxProperties", path)
        if schema.get("propertyNames", True) not in (True, {}, {"type": "string"}):
            raise JsonSchemaError((*path, "propertyNames"), "is not supported; use patternProperties")
        return made

    def _array(self, schema: dict[str, Any], path: Path, inside: _Mode, *, is_narrow: bool) -> dict[str, Any]:
        if schema.get("uniqueItems", False) is not False:
            raise JsonSchemaError((*path, "uniqueItems"), "is not supported")
        made: dict[str, Any] = read_count(schema, "minItems", path) | read_count(schema, "maxItems", path)
        if "items" in schema:
            made["items"] = self._visit(schema["items"], (*path, "items"), inside)
        if "prefixItems" in schema:
            here = (*path, "prefixItems")
            items = enumerate(_list(schema["prefixItems"], here))
            made["prefixItems"] = [self._visit(item, (*here, str(index)), inside) for index, item in items]
            if is_narrow and not made.keys() & {"items", "minItems", "maxItems"}:
                made |= {"items": False, "minItems": len(made["prefixItems"])}
        return made


def _with_tag(branches: Sequence[Any], schema: dict[str, Any]) -> list[Any]:
    """Branches that require the property which OpenAPI's `discriminator` names, so that it tells them apart."""
    discriminator = schema.get("discriminator")
    tag = discriminator.get("propertyName") if isinstance(discriminator, dict) else None
    return [
        branch | {"required": sorted({*branch.get("required", []), tag})}
        if isinstance(branch, dict) and isinstance(tag, str) and tag in branch.get("properties", {})
        else branch
        for branch in branches
    ]


def _types(schema: dict[str, Any], path: Path) -> list[str]:
    if "type" not in schema:
        return []
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if not kinds or len(kinds) > len(_TYPES) or any(kind not in _TYPES for kind in kinds):
        raise JsonSchemaError((*path, "type"), f"must be one of {', '.join(_TYPES)}, or an array of them")
    return list(dict.fromkeys(kinds))


def _object(value: Any, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise JsonSchemaError(path, "must be an object")
    return value


def _list(value: Any, path: Path) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise JsonSchemaError(path, "must be an array with at least one element")
    if len(value) > MAX_ELEMENTS:
        raise JsonSchemaError(path, f"has {len(value)} elements; the limit is {MAX_ELEMENTS}")
    return value


def _strings(value: Any, path: Path) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise JsonSchemaError(path, "must be an array of strings")
    return list(dict.fromkeys(value))
