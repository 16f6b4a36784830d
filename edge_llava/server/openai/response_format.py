"""`response_format`: text, any JSON object, or JSON of a schema; the latter two as a grammar for the answer."""

from __future__ import annotations

import re

from edge_llava.runtime.language.json_grammar import SchemaFault, object_grammar, schema_grammar
from edge_llava.server.openai.request_fields import RequestFields

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_FORMATS = ("text", "json_object", "json_schema")


def read_grammar(request: RequestFields) -> str | None:
    """The GBNF grammar of the answer, or None for text. What is wrong is noted in the request's faults."""
    wanted = request.object("response_format")
    if wanted is None:
        return None
    kind = wanted.text("type", _FORMATS) if wanted.require("type") else None
    wanted.refuse_unknown(("type", "json_schema") if kind == "json_schema" else ("type",))
    if kind == "json_object":
        return object_grammar()
    return _read_schema(wanted) if kind == "json_schema" else None


def _read_schema(wanted: RequestFields) -> str | None:
    described = wanted.object("json_schema") if wanted.require("json_schema") else None
    if described is None:
        return None
    described.refuse_unknown(("name", "description", "schema", "strict"))
    described.boolean("strict")  # the answer follows the schema in any case
    described.text("description")
    name = described.text("name") if described.require("name") else None
    if name is not None and not _NAME.fullmatch(name):
        described.note("name", "must be 1 to 64 letters, digits, '_' or '-'")
    if described.object("schema") is None:
        return object_grammar()
    try:
        return schema_grammar(described.raw("schema"))
    except SchemaFault as fault:
        where = ".".join((described.place("schema"), *fault.path))
        described.faults.note(
            described.place("schema"), f"Invalid schema: {where[:200]} {fault}", "invalid_json_schema"
        )
        return None
