"""The types of request fields, and markers for fields that are refused or ignored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationInfo,
    WithJsonSchema,
    create_model,
)
from pydantic.config import JsonDict, JsonValue
from pydantic_core import (
    CoreSchema,
    core_schema,
)

from edge_llava.home.unicode_text import is_unicode
from edge_llava.server.openai.faults import tag
from edge_llava.server.openai.request_model import RequestModel, fault, is_strict

_MAX_NUMBER = 1e300  # a larger integer of JSON may not fit in a float
IF_STRICT = "x-if-strict"  # in the description: replaces the schema on a server with --strict
EMPTY: tuple[Any, ...] = (None, "", [], {})
"""Values that have no effect in any field."""


def _check_unicode(text: str) -> str:
    if not is_unicode(text):
        raise fault("invalid_value", "'{place}' contains unpaired surrogates, which are not valid text")
    return text


def _to_integer(value: Any) -> Any:
    """Accepts 2.0 as an integer, as JSON Schema does: some clients have only floats."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _limit_integer(value: Any) -> Any:
    is_huge = type(value) is int and abs(value) > _MAX_NUMBER
    return float("inf") if is_huge else value


UNICODE, WHOLE, FINITE = AfterValidator(_check_unicode), BeforeValidator(_to_integer), BeforeValidator(_limit_integer)
Text = Annotated[str, UNICODE]
Object = Annotated[dict[Any, Any], WithJsonSchema({"type": "object"})]


@dataclass(frozen=True, eq=False)  # typing confuses Annotated[Any, one] with Annotated[Any, other] if they are equal
class Refused:
    """Marks a field that is not supported: only values without effect are accepted.

    Attributes:
        harmless: Values without effect besides null, "", [] and {}.
        message, code: Those of the fault.
    """

    harmless: tuple[Any, ...] = ()
    message: str = "'{place}' is not supported"
    code: str = "unsupported_parameter"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"enum": [*EMPTY, *self.harmless]}

    def _check(self, value: Any) -> Any:
        if not is_one_of(value, (*EMPTY, *self.harmless)):
            raise fault(self.code, self.message)
        return value


@dataclass(frozen=True, eq=False)
class NoEffect:
    """Marks a field that has no effect and that answers name.

    Attributes:
        refuse: Whether a strict server refuses it.
        message, code: Those of the fault.
    """

    refuse: bool = True
    message: str = "'{place}' is not supported"
    code: str = "unsupported_parameter"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        described = handler(schema)
        # nothing fits a word that is refused; a field of any type takes values without effect
        strict: JsonDict = {"not": {}} if described else {"enum": [*EMPTY]}
        return described | {IF_STRICT: strict} if self.refuse else described

    def _check(self, value: Any, info: ValidationInfo) -> Any:
        if self.refuse and is_strict(info) and value not in EMPTY:
            raise fault(self.code, self.message)
        return value


Unsupported = Annotated[Any, Refused()]
Ignored = Annotated[Any, NoEffect()]
Idle = Annotated[Any, NoEffect(refuse=False)]


def is_one_of(value: Any, harmless: tuple[Any, ...]) -> bool:
    """Whether a value is one of the harmless ones; True does not count as 1."""
    return any(isinstance(value, bool) == isinstance(one, bool) and bool(value == one) for one in harmless)


def only(name: str) -> BeforeValidator:
    """Removes all fields of an object except one."""

    def keep(data: Any) -> Any:
        return {name: data[name]} if isinstance(data, dict) and name in data else {} if isinstance(data, dict) else data

    return BeforeValidator(keep)


def by_word(name: str, choose: Callable[[Any], str | None], message: str, code: str = "invalid_value") -> Discriminator:
    """Chooses the alternative of an object by one of its fields.

    Args:
        name: The field.
        choose: Maps an object to the tag of its alternative, or None.
        message: The fault if there is no alternative: "'{place}' must be ...".
        code: OpenAI's code for it.
    """
    return Discriminator(choose, custom_error_type=f"{code} {name}", custom_error_message=message)


def by_table(name: str, tags: Mapping[str, str]) -> Discriminator:
    """Like `by_word`, with a table of the alternatives."""
    found = {word: tag(kind) for word, kind in tags.items()}

    def choose(value: Any) -> str | None:
        word = value.get(name) if isinstance(value, dict) else None
        return found.get(word) if isinstance(word, str) else None

    return by_word(name, choose, f"'{{place}}' must be one of {', '.join(map(repr, tags))}")


def by_kind(message: str) -> Discriminator:
    """Chooses the alternative whose tag is the value's JSON type: "string", "array", "object", ...

    Args:
        message: The message of the fault if there is no such alternative.
    """
    kinds = {str: tag("string"), list: tag("array"), dict: tag("object"), bool: tag("boolean")}

    def choose(value: Any) -> str | None:
        return kinds.get(type(value))

    return Discriminator(
        choose, custom_error_type="invalid_type", custom_error_message=f"'{{place}}' must be {message}, not {{kind}}"
    )


def with_fields(kind: Any, *names: str) -> Any:
    """Creates a base for models with many optional fields of one type."""
    fields: dict[str, Any] = dict.fromkeys(names, (kind, None))
    return create_model("Fields", __base__=RequestModel, **fields)


def present(*names: str) -> list[JsonValue]:
    """JSON Schemas of objects with a field that is not null, one for each name."""
    return [{"required": [name], "properties": {name: {"not": {"type": "null"}}}} for name in names]
