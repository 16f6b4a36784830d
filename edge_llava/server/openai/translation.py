"""A request of another API, translated to one of OpenAI's chat API."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

_INDEX = re.compile(r"\[\d+\]")


@dataclass
class Translation:
    """A request of OpenAI's chat API in the making.

    Attributes:
        chat: The request.
        places: Where its fields stood in the client's request: {"max_tokens": "options.num_predict"}.
        ignored: Fields of the client's request without effect, each once: "options.num_ctx", "input[]".
        is_raw: Whether the text of the only message is continued without the conversation template.
    """

    chat: Json = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    is_raw: bool = False

    def put(self, key: str, value: Any, place: str) -> None:
        """Sets a field that the client's request has elsewhere."""
        self.chat[key] = value
        self.places[key] = place

    def ignore(self, place: str) -> None:
        """Notes a field that has no effect."""
        name = _INDEX.sub("[]", place)
        if name not in self.ignored:
            self.ignored.append(name)

    def hand_on(self, key: str, place: str, value: Any) -> None:
        """Leaves a field to the reader of chat requests, which decides what becomes of those that nobody knows."""
        if key in self.chat or key in ("messages", "max_tokens", "max_completion_tokens"):
            self.ignore(place)  # it means something else there
        else:
            self.chat[key] = value
