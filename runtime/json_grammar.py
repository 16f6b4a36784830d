"""A JSON schema as a grammar that answers can be held to; see `SamplingOptions.grammar`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import llama_cpp
from llama_cpp.llama_grammar import SchemaConverter

from edge_llava.errors import list_faults
from edge_llava.runtime.llama_log import last_error, route_log

# What the converter raises at schemas it does not take: asserts, and what its code runs into.
_CONVERTER_ERRORS = (
    AssertionError, AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError, re.error,
)  # fmt: skip
_MAX_COUNT = 1000  # the converter nests as many parentheses, and llama.cpp reads some thousands to its death
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems")
_CHOICES = ("enum", "anyOf", "oneOf", "type", "items", "prefixItems")
_REPETITION = re.compile(r"\{\s*(\d*)\s*,?\s*(\d*)\s*\}")
_LITERAL = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]', re.DOTALL)
_ESCAPE = re.compile(r'\\(?![nrtxuU"\\\[\]])(.)')


class _Converter(SchemaConverter):
    def _format_literal(self, literal: str) -> str:
        """JSON text as a literal of the grammar. llama-cpp-python's own leaves backslashes as they are."""
        return json.dumps(json.dumps(json.loads(literal), ensure_ascii=False), ensure_ascii=False)


def json_grammar(schema: Any) -> str:
    """Writes the GBNF grammar of a JSON schema.

    It holds what llama.cpp's grammars can express: types, properties, required, enum, const, anyOf, items, counts up to
    1,000, anchored patterns, references within the schema. Ranges of numbers and other keywords are passed over.

    Args:
        schema: The schema, as JSON values.

    Raises:
        ValueError: If it is no JSON schema, or one that cannot be a grammar; says why.
    """
    try:
        if not isinstance(schema, dict):
            raise ValueError("it is no JSON object")
        faults = list(dict.fromkeys(_find_faults(schema)))
        if faults:
            raise ValueError(list_faults("", faults).strip())
        converter = _Converter(prop_order={}, allow_fetch=False, dotall=False, raw_pattern=False)
        converter.visit(converter.resolve_refs(json.loads(json.dumps(schema)), ""), "")
        grammar: str = converter.format_grammar()
        _compile(grammar)
    except _CONVERTER_ERRORS as error:
        raise ValueError(f"the JSON schema cannot be a grammar: {error}") from error
    return grammar


def _find_faults(schema: Any) -> Iterator[str]:
    """What the converter, or llama.cpp behind it, would not refuse but choke on."""
    if isinstance(schema, list):
        for item in schema:
            yield from _find_faults(item)
    if not isinstance(schema, dict):
        return
    for key, value in schema.items():
        if key in _COUNTS and isinstance(value, (int, float, str)) and not _is_count(value):
            yield f"{key} is {value!r}; it may be a number up to {_MAX_COUNT}"
        elif key in _CHOICES and value == []:
            yield f"{key} is empty"
        elif key == "$ref" and isinstance(value, str) and not value.startswith("#/"):
            yield f"$ref is {value!r}; it may refer to a place in the schema itself, '#/...'"
        elif key == "pattern" and isinstance(value, str):
            counts = [count for found in _REPETITION.findall(value) for count in found if count]
            if any(not _is_count(int(count)) for count in counts):
                yield f"the pattern {value!r} repeats more than {_MAX_COUNT} times"
        yield from _find_faults(value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_COUNT


def _compile(grammar: str) -> None:
    """
    Raises:
        ValueError: If llama.cpp does not take the grammar.
    """
    for literal in _LITERAL.findall(grammar):
        # llama.cpp would write a message of its own to stderr
        if escape := _ESCAPE.search(re.sub(r"\\\\", "", literal)):
            raise ValueError(f"it has a pattern with \\{escape[1]}; write a list of characters, as [0-9] or [.]")
    route_log()
    compiled = llama_cpp.llama_sampler_init_grammar(None, grammar.encode(), b"root")
    if not compiled:
        raise ValueError(last_error())
    llama_cpp.llama_sampler_free(compiled)
