"""The base model of all requests, and their parsing.

Pydantic validates a request against its model, and the description in /openapi.json is generated from the same model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any, TypeVar, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError, PydanticKnownError, PydanticOmit

from edge_llava.server.openai.faults import MAX_LISTED, to_faults

_Request = TypeVar("_Request", bound="RequestModel")
MAX_IGNORED = 20  # largest number of fields without effect that are named


@dataclass(frozen=True)
class Rules:
    """How requests are parsed.

    Attributes:
        strict: Whether fields that have no effect are refused.
    """

    strict: bool = False


@dataclass
class _Reading:
    """The parsing of one request; pydantic's context.

    Attributes:
        strict: See `Rules`.
        n_faults: The number of faults in items of arrays so far.
    """

    strict: bool
    n_faults: int = 0


class RequestModel(BaseModel):
    """An object of a request. Unknown fields have no effect, and fields that are null count as absent."""

    model_config = ConfigDict(
        strict=True, extra="allow", allow_inf_nan=False, protected_namespaces=(), use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _thin_out(cls, data: Any) -> Any:
        """Removes unknown fields that are null, and all but the first few of the others."""
        names = _names_of(cls)
        if not isinstance(data, dict) or data.keys() <= names:
            return data
        unknown = (name for name, value in data.items() if value is not None and name not in names)
        kept = {name.encode("utf-8", "replace").decode(): data[name] for name in islice(unknown, MAX_IGNORED + 1)}
        return {name: data[name] for name in names if name in data} | kept


@cache
def _names_of(model: type[RequestModel]) -> frozenset[str]:
    return frozenset(field.alias or name for name, field in model.model_fields.items())


def parse(model: type[_Request], data: Mapping[str, Any], rules: Rules) -> _Request:
    """Parses the JSON object of a request.

    Raises:
        RequestError: 400 with everything that is wrong with it.
    """
    try:
        return model.model_validate(data, context=_Reading(rules.strict), extra="forbid" if rules.strict else None)
    except ValidationError as error:
        raise to_faults(error).as_error() from None


def fault(code: str, message: str) -> PydanticCustomError:
    """Creates a fault for a validator to raise; "{place}" and "{kind}" in the message are filled in later."""
    return PydanticCustomError(code, message)


def faults_at(found: Mapping[str, str | PydanticCustomError]) -> ValidationError:
    """Creates faults of fields, pydantic's or others, for a validator of their model to raise."""
    details = [InitErrorDetails(type=kind, loc=(name,), input=None) for name, kind in found.items()]
    return ValidationError.from_exception_data("", details)


def is_strict(info: ValidationInfo) -> bool:
    """Whether fields that have no effect are refused."""
    return isinstance(info.context, _Reading) and info.context.strict


def _stop_at_many(item: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    """Skips an item if more faults were found than are listed."""
    reading = cast(_Reading, info.context)
    if reading.n_faults > MAX_LISTED:
        raise PydanticOmit
    try:
        return handler(item)
    except ValidationError as error:
        reading.n_faults += error.error_count()
        raise


def at_most(n: int) -> BeforeValidator:
    """Limits the number of items of a value before any is checked."""

    def check(value: Any) -> Any:
        if isinstance(value, dict | list) and len(value) > n:
            raise PydanticKnownError("too_long", {"field_type": "", "max_length": n, "actual_length": len(value)})
        return value

    return BeforeValidator(check)


FEW_FAULTS = WrapValidator(_stop_at_many)
