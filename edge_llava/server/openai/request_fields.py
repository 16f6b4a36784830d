"""Typed access to the JSON of a request: every wrong field is noted, and none stops the reading.

As `edge_llava.bundle.json_fields`, for a sender who may leave fields out, and who is told the place of each fault.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edge_llava.home.unicode_text import is_unicode
from edge_llava.server.openai.errors import Faults
from edge_llava.server.openai.ignored_fields import IgnoredFields

_MAX_NUMBER = 1e300  # beyond it an integer of JSON may not fit a float
_KINDS = {bool: "a boolean", int: "an integer", float: "a number", str: "a string", list: "an array", dict: "an object"}


class RequestFields:
    """One object of a request. Of a field that is missing, null or wrong, the value is None.

    Attributes:
        faults: What was wrong so far, shared with the objects inside.
        ignored: What has no effect, shared with the objects inside; None refuses it.
    """

    def __init__(
        self, data: Mapping[str, Any], place: str, faults: Faults, ignored: IgnoredFields | None = None
    ) -> None:
        """
        Args:
            data: The object.
            place: Where it stands: "" for the request itself, "messages[0]".
            faults: Notes what is wrong.
            ignored: Notes what has no effect; None refuses it.
        """
        self._data, self._place, self.faults, self.ignored = data, place, faults, ignored

    @property
    def is_strict(self) -> bool:
        """Whether fields that have no effect are refused."""
        return self.ignored is None

    def place(self, key: str) -> str:
        """Where a field stands: "messages[0].role"."""
        return f"{self._place}.{key}" if self._place else key

    def has(self, key: str) -> bool:
        """Whether a field is there and is not null."""
        return self._data.get(key) is not None

    def keys(self) -> Sequence[str]:
        """The names of the fields that are not null."""
        return [key for key, value in self._data.items() if value is not None]

    def raw(self, key: str) -> Any:
        """The field as it came."""
        return self._data.get(key)

    def note(self, key: str, message: str, code: str = "invalid_value") -> None:
        """Notes a fault of a field; the message follows its place: "'seed' must be ..."."""
        self.faults.note(self.place(key), f"'{self.place(key)}' {message}", code)

    def ignore(self, key: str, message: str = "is not supported", code: str = "unsupported_parameter") -> None:
        """Notes that a field has no effect; where that is refused, as a fault."""
        if self.ignored is None:
            self.note(key, message, code)
        else:
            self.ignored.note(self._place, key)

    def ignore_unknown(self, known: Sequence[str]) -> None:
        """Notes that every field that is none of `known`, nor null, has no effect; of thousands, the first few."""
        if self.ignored is None:
            self.refuse_unknown(known)
            return
        for key, value in self._data.items():
            if self.ignored.is_full:
                return
            if value is not None and key not in known:
                self.ignored.note(self._place, key)

    def refuse_unknown(self, known: Sequence[str]) -> None:
        """Notes every field that is none of `known`, nor null, as a fault; of thousands, the first few."""
        for key, value in self._data.items():
            if self.faults.is_full:
                return
            if value is None or key in known:
                continue
            shown = self.place(key)[:100]
            self.faults.note(shown, f"Unknown parameter: '{shown}'", "unknown_parameter")

    def require(self, key: str) -> bool:
        """Whether a field is there and not null; notes it if not."""
        if key not in self._data:
            self.faults.note(
                self.place(key), f"Missing required parameter: '{self.place(key)}'", "missing_required_parameter"
            )
        elif self._data[key] is None:
            self._note_type(key, "a value")
        return self.has(key)

    def boolean(self, key: str) -> bool | None:
        """True or false."""
        value = self._data.get(key)
        if value is not None and not isinstance(value, bool):
            self._note_type(key, "a boolean")
            return None
        return value

    def number(self, key: str, low: float, high: float) -> float | None:
        """A number from low to high."""
        value = self._data.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            self._note_type(key, "a number")
            return None
        if not (-_MAX_NUMBER < value < _MAX_NUMBER and low <= value <= high):
            self.note(key, f"must be from {low:g} to {high:g}")
            return None
        return float(value)

    def integer(self, key: str, low: int, high: int) -> int | None:
        """An integer from low to high; 2.0 is one, as in JSON Schema: some clients have only floats."""
        value = self._data.get(key)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            self._note_type(key, "an integer")
            return None
        if not low <= value <= high:
            self.note(key, f"must be from {low} to {high}")
            return None
        return value

    def text(self, key: str, choices: Sequence[str] = ()) -> str | None:
        """A string that is valid Unicode, one of `choices` if there are any."""
        value = self._data.get(key)
        if value is None:
            return None
        if not isinstance(value, str):
            self._note_type(key, "a string")
            return None
        if choices and value not in choices:
            self.note(key, f"must be one of {', '.join(map(repr, choices))}")
            return None
        if not is_unicode(value):
            self.note(key, "holds halves of characters (surrogates), which are no text")
            return None
        return value

    def object(self, key: str) -> RequestFields | None:
        """The object inside."""
        value = self._data.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            self._note_type(key, "an object")
            return None
        return RequestFields(value, self.place(key), self.faults, self.ignored)

    def object_if_any(self, key: str) -> RequestFields | None:
        """The object inside; None, without a fault, where the field is something else."""
        return self.object(key) if isinstance(self._data.get(key), dict) else None

    def texts(self, key: str, at_most: int) -> list[str]:
        """The strings of an array; none of them where there are too many."""
        value = self._data.get(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.note(key, "must be an array of strings", "invalid_type")
            return []
        if len(value) > at_most:
            self.note(key, f"has {len(value)} items; the limit is {at_most}", "array_above_max_length")
            return []
        if not all(map(is_unicode, value)):
            self.note(key, "contains unpaired surrogates, which are not valid text")
            return []
        return value

    def objects(self, key: str, at_most: int, form: Callable[[Any], Any] = lambda item: item) -> list[RequestFields]:
        """The objects of an array that is not empty; none of them where there are too many.

        Args:
            key: The field.
            at_most: Items that it may have.
            form: Turns what stands for an object into one.
        """
        value = self._data.get(key)
        if not isinstance(value, list):
            self._note_type(key, "an array of objects")
            return []
        if not value:
            self.note(key, "is empty")
        if len(value) > at_most:
            self.note(key, f"has {len(value)} items; the limit is {at_most}", "array_above_max_length")
            return []
        objects = []
        for index, item in enumerate(value):
            place, data = f"{self.place(key)}[{index}]", form(item)
            if isinstance(data, dict):
                objects.append(RequestFields(data, place, self.faults, self.ignored))
            else:
                self.faults.note(place, f"'{place}' must be an object, not {kind_of(item)}", "invalid_type")
        return objects

    def _note_type(self, key: str, expected: str) -> None:
        self.note(key, f"must be {expected}, not {kind_of(self._data.get(key))}", "invalid_type")


def kind_of(value: Any) -> str:
    """What a value of JSON is, for a message."""
    return _KINDS.get(type(value), "null")
