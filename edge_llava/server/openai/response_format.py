"""`response_format`: text, any JSON object, or JSON that follows a schema. The latter two become a JSON schema."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, Tag

from edge_llava.runtime.language.json_schema import ANY_OBJECT, read_schema
from edge_llava.runtime.language.json_schema_error import JsonSchemaError
from edge_llava.server.openai.faults import Faults, tag
from edge_llava.server.openai.fields import Object, Text, by_table
from edge_llava.server.openai.request_model import RequestModel


class PlainFormat(RequestModel):
    """Text, or any JSON object."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text", "json_object"]


class JsonSchema(RequestModel):
    """A JSON schema and its name. The answer follows the schema whether it is `strict` or not."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(pattern="^[A-Za-z0-9_-]{1,64}$")]
    description: Text | None = None
    schema_: Object | None = Field(None, alias="schema")
    strict: bool | None = None


class SchemaFormat(RequestModel):
    """JSON that follows a schema."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["json_schema"]
    json_schema: JsonSchema


FormatType = by_table("type", {"text": "plain", "json_object": "plain", "json_schema": "schema"})
ResponseFormat = Annotated[
    Annotated[PlainFormat, Tag(tag("plain"))] | Annotated[SchemaFormat, Tag(tag("schema"))], FormatType
]


def described(wanted: PlainFormat | SchemaFormat | None) -> PlainFormat | JsonSchema | None:
    """The format without the object around its schema."""
    return wanted.json_schema if isinstance(wanted, SchemaFormat) else wanted


def json_options(wanted: PlainFormat | JsonSchema | None, place: str, faults: Faults) -> str | None:
    """The `json_schema` of SamplingOptions, as text, that enforces a format.

    Args:
        wanted: The format; None means text.
        place: The place of its schema in the request.
        faults: Collects what is wrong with the schema.
    """
    if isinstance(wanted, JsonSchema) and wanted.schema_ is not None:
        return _read(wanted.schema_, place, faults)
    is_text = wanted is None or (isinstance(wanted, PlainFormat) and wanted.type == "text")
    return None if is_text else read_schema(ANY_OBJECT)


def _read(schema: dict[str, Any], place: str, faults: Faults) -> str | None:
    try:
        return read_schema(schema)
    except JsonSchemaError as error:
        where = ".".join((place, *error.path))
        faults.note(place, f"Invalid schema: {where[:200]} {error.problem}", "invalid_json_schema")
        return None
