"""Collects everything that is wrong with a request in one error, and words pydantic's errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from edge_llava.server.http.errors import RequestError

MAX_LISTED = 10  # faults in one message
_KINDS = {bool: "a boolean", int: "an integer", float: "a number", str: "a string", list: "an array", dict: "an object"}
_OBJECT = ("'{place}' must be an object, not {kind}", "invalid_type")
_SURROGATES = ("'{place}' contains unpaired surrogates, which are not valid text", "invalid_value")
_INTEGER = ("'{place}' must be an integer, not {kind}", "invalid_type")
# a message and OpenAI's code for pydantic's own errors; those of this package carry both
_WORDS: Mapping[str, tuple[str, str]] = {
    "missing": ("Missing required parameter: '{place}'", "missing_required_parameter"),
    "extra_forbidden": ("Unknown parameter: '{place}'", "unknown_parameter"),
    "bool_type": ("'{place}' must be a boolean, not {kind}", "invalid_type"),
    "int_type": _INTEGER,
    "int_from_float": _INTEGER,
    "float_type": ("'{place}' must be a number, not {kind}", "invalid_type"),
    "finite_number": ("'{place}' is too large", "invalid_value"),
    "string_type": ("'{place}' must be a string, not {kind}", "invalid_type"),
    "string_unicode": _SURROGATES,
    "list_type": ("'{place}' must be an array, not {kind}", "invalid_type"),
    "tuple_type": ("'{place}' must be an array, not {kind}", "invalid_type"),
    "dict_type": _OBJECT,
    "model_type": _OBJECT,
    "model_attributes_type": _OBJECT,
    "literal_error": ("'{place}' must be {expected}", "invalid_value"),
    "greater_than_equal": ("'{place}' must be at least {ge}", "invalid_value"),
    "less_than_equal": ("'{place}' must be at most {le}", "invalid_value"),
    "string_too_long": ("'{place}' may have at most {max_length} characters", "invalid_value"),
    "string_pattern_mismatch": ("'{place}' must match {pattern}", "invalid_value"),
    "too_short": ("'{place}' is empty", "invalid_value"),
    "too_long": ("'{place}' has {actual_length} items; the limit is {max_length}", "array_above_max_length"),
}


@dataclass(frozen=True)
class Fault:
    """One wrong field of a request.

    Attributes:
        param: Its place: "messages[0].content".
        message: What is wrong, without a full stop.
        code: OpenAI's code for it.
    """

    param: str
    message: str
    code: str = "invalid_value"


@dataclass
class Faults:
    """All faults of a request, up to a maximum number."""

    found: list[Fault] = field(default_factory=list)

    def note(self, param: str, message: str, code: str = "invalid_value") -> None:
        """Adds a fault. "{place}" in the message stands for the param."""
        if len(self.found) <= MAX_LISTED:
            self.found.append(Fault(param, message.replace("{place}", param), code))

    def check(self) -> None:
        """
        Raises:
            RequestError: 400 if there are any faults; `param` and `code` are those of the first.
        """
        if self.found:
            raise self.as_error()

    def as_error(self) -> RequestError:
        """Combines all faults in one error."""
        lines = [fault.message for fault in self.found[:MAX_LISTED]]
        if len(self.found) > MAX_LISTED:
            lines.append("and more")
        first = self.found[0]
        return RequestError(400, " ".join(f"{line}." for line in lines), code=first.code, param=first.param)


def to_faults(error: ValidationError) -> Faults:
    """Translates the errors that pydantic found."""
    faults = Faults()
    for details in error.errors(include_url=False)[: MAX_LISTED + 1]:
        place, value = _place(details), details["input"]
        kind, _, chooser = details["type"].partition(" ")  # see `fields.by_word`
        if chooser and isinstance(value, dict):
            place, value = f"{place}.{chooser}", value.get(chooser)
            kind = "missing" if value is None else kind if isinstance(value, str) else "string_type"
        elif chooser:
            kind = "model_type"
        elif kind == "literal_error" and not isinstance(value, str):
            kind = "string_type"
        message, code = _WORDS.get(kind, (details["msg"], kind))
        for name, shown in details.get("ctx", {}).items():
            message = message.replace(f"{{{name}}}", f"{shown:g}" if isinstance(shown, float) else str(shown))
        message = message.replace("{kind}", kind_of(value))
        faults.note(place[:200], message, code)
    return faults


def kind_of(value: Any) -> str:
    """The JSON type of a value, for a message."""
    return _KINDS.get(type(value), "null")


def at(*steps: str | int) -> str:
    """Names a place in a request: at("messages", 0, "content") is "messages[0].content"."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).removeprefix(".")


def tag(name: str) -> str:
    """The tag of an alternative, which the places of faults leave out."""
    return f"<{name}>"


def _place(details: ErrorDetails) -> str:
    steps: Sequence[str | int] = details["loc"]
    if details["type"] == "extra_forbidden":  # a client's own name, whatever it looks like
        return at(*filter(_is_step, steps[:-1]), steps[-1])
    if steps and steps[-1] == "[key]":
        steps = steps[:-2]
    return at(*filter(_is_step, steps))


def _is_step(step: str | int) -> bool:
    return not str(step).startswith("<")
