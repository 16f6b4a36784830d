"""Typed access to JSON that a stranger may have edited: every wrong field is noted, and none stops the reading."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

_SHOWN_CHARACTERS = 200  # of a field's name
_MAX_NUMBER = 1e300  # beyond it an integer of JSON may not fit a float


class JsonFields:
    """One JSON object; notes a fault and returns a harmless value where a field is missing or wrong.

    Attributes:
        faults: What was wrong so far, shared with the objects inside.
    """

    def __init__(self, data: Mapping[str, Any], prefix: str, faults: list[str]) -> None:
        """
        Args:
            data: The object.
            prefix: Where it stands, for messages: "vision.".
            faults: List to add to.
        """
        self._data, self._prefix, self.faults = data, prefix, faults

    def names(self) -> list[str]:
        """The fields that are there, sorted."""
        return sorted(self._data)

    def integer(self, key: str, low: int, high: int = 2**40) -> int:
        """An integer from low to high."""
        value: int = self._get(key, lambda v: _is_int(v) and low <= v <= high, f"an integer from {low}", max(low, 1))
        return value

    def text(self, key: str, choices: tuple[str, ...] = ()) -> str:
        """A string that is not empty, one of `choices` if there are any."""
        expected = "one of " + ", ".join(choices) if choices else "a non-empty string"
        value: str = self._get(
            key, lambda v: isinstance(v, str) and bool(v) and (not choices or v in choices), expected, "?"
        )
        return value

    def any_text(self, key: str) -> str:
        """A string, which may be empty."""
        value: str = self._get(key, lambda v: isinstance(v, str), "a string", "")
        return value

    def optional_text(self, key: str) -> str | None:
        """A string or null."""
        value: str | None = self._get(key, lambda v: v is None or isinstance(v, str), "a string or null", None)
        return value

    def boolean(self, key: str) -> bool:
        """True or false."""
        value: bool = self._get(key, lambda v: isinstance(v, bool), "true or false", True)
        return value

    def optional_boolean(self, key: str) -> bool:
        """True or false; false where the field is missing."""
        return key in self._data and self.boolean(key)

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings."""
        return tuple(
            self._get(key, lambda v: isinstance(v, list) and all(isinstance(x, str) for x in v), "strings", [])
        )

    def counts(self, key: str, max_count: int) -> tuple[int, ...]:
        """A list of at most `max_count` integers from 0."""

        def accept(value: Any) -> bool:
            return isinstance(value, list) and len(value) <= max_count and all(_is_int(x) and x >= 0 for x in value)

        return tuple(self._get(key, accept, f"a list of integers from 0, at most {max_count}", []))

    def pieces(self, key: str, max_count: int) -> tuple[int | str, ...]:
        """A list of at most `max_count` integers from 0 and strings that are not empty."""

        def is_piece(value: Any) -> bool:
            return (_is_int(value) and value >= 0) or (isinstance(value, str) and bool(value))

        def accept(value: Any) -> bool:
            return isinstance(value, list) and len(value) <= max_count and all(map(is_piece, value))

        return tuple(self._get(key, accept, f"a list of token ids and texts, at most {max_count}", []))

    def triple(self, key: str, low: float, high: float) -> tuple[float, float, float]:
        """A list of three numbers from low to high."""

        def accept(value: Any) -> bool:
            return (
                isinstance(value, list) and len(value) == 3 and all(_is_number(x) and low <= x <= high for x in value)
            )

        red, green, blue = self._get(key, accept, f"three numbers from {low:g} to {high:g}", [1.0, 1.0, 1.0])
        return float(red), float(green), float(blue)

    def sizes(self, key: str, max_count: int) -> tuple[tuple[int, int], ...]:
        """A list of at most `max_count` [width, height], each at least 1."""

        def accept(value: Any) -> bool:
            return (
                isinstance(value, list)
                and len(value) <= max_count
                and all(isinstance(x, list) and len(x) == 2 and all(_is_int(y) and y > 0 for y in x) for x in value)
            )

        return tuple((w, h) for w, h in self._get(key, accept, f"a list of [width, height], at most {max_count}", []))

    def optional_number(self, key: str) -> float | None:
        """A finite number or null."""
        value = self._get(key, lambda v: v is None or _is_number(v), "a number or null", None)
        return None if value is None else float(value)

    def optional_count(self, key: str) -> int | None:
        """An integer from 0 or null."""
        value: int | None = self._get(key, lambda v: v is None or (_is_int(v) and v >= 0), "a count or null", None)
        return value

    def optional_integer(self, key: str, low: int, high: int) -> int | None:
        """An integer from low to high, or null."""
        return self.integer(key, low, high) if self._data.get(key, 0) is not None else None

    def number(self, key: str, low: float, high: float) -> float:
        """A number from low to high."""
        expected = f"a number from {low:g} to {high:g}"
        return float(self._get(key, lambda v: _is_number(v) and low <= v <= high, expected, low))

    def optional_object(self, key: str) -> JsonFields | None:
        """The object inside, or None where the field is missing or null."""
        return None if self._data.get(key) is None else self.object(key)

    def object(self, key: str) -> JsonFields:
        """The object inside; if it is missing, that is one fault, not one per field of it."""
        data = self._get(key, lambda v: isinstance(v, dict), "an object", {})
        faults = self.faults if isinstance(self._data.get(key), dict) else []
        return JsonFields(data, f"{self._prefix}{key}.", faults)

    def _get(self, key: str, accept: Callable[[Any], bool], expected: str, harmless: Any) -> Any:
        if key not in self._data:
            self.faults.append(f"{self._where(key)} is missing ({expected})")
            return harmless
        if not accept(self._data[key]):
            self.faults.append(f"{self._where(key)} is {_shown(self._data[key])[:80]}, expected {expected}")
            return harmless
        return self._data[key]

    def _where(self, key: str) -> str:
        return f"{self._prefix}{key}"[:_SHOWN_CHARACTERS]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -_MAX_NUMBER < value < _MAX_NUMBER


def _shown(value: Any, depth: int = 2) -> str:
    """A value for a message, however deep or long it is."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return f"[{', '.join(_shown(item, depth - 1) for item in value[:8])}]" if depth else "a list"
    return json.dumps(value)
