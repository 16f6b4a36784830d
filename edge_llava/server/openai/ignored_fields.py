"""Fields of requests that are taken without effect: named in a header of the answer, and once in the log.

Names are what a client wrote. Only plain ones are repeated, and only some of them, so that neither a header nor a
terminal gets anything else.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable

IGNORED_HEADER = "x-edge-llava-ignored"
_log = logging.getLogger("edge_llava.server")
_PLAIN = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_INDEX = re.compile(r"\[\d+\]")
_MAX_NAMES, _MAX_LOGGED = 20, 200


class IgnoredFields:
    """The ignored fields of one request.

    Attributes:
        names: Each once: "cache_prompt", "messages[].content[].cache_control"; "..." at the end if there are more.
    """

    def __init__(self) -> None:
        self.names: list[str] = []

    @property
    def is_full(self) -> bool:
        """Whether no more would be named."""
        return len(self.names) > _MAX_NAMES

    def note(self, place: str, key: str) -> None:
        """Adds a field.

        Args:
            place: Of the object that holds it, in our words: "messages[0]"; "" for the request itself.
            key: Its name, as the client wrote it.
        """
        shown = key if _PLAIN.fullmatch(key) else "?"
        name = _INDEX.sub("[]", f"{place}.{shown}" if place else shown)
        if not self.is_full and name not in self.names:
            self.names.append(name if len(self.names) < _MAX_NAMES else "...")


def ignored_headers(names: Iterable[str]) -> dict[str, str]:
    """The header that names the ignored fields of a request; none where there are none."""
    listed = ", ".join(names)
    return {IGNORED_HEADER: listed} if listed else {}


class IgnoredLog:
    """Logs every name once, as long as there are not too many."""

    def __init__(self) -> None:
        self._logged: set[str] = set()

    def note(self, names: Iterable[str]) -> None:
        """Logs those that are new."""
        new = [name for name in names if name not in self._logged and name != "..."]
        new = new[: max(0, _MAX_LOGGED - len(self._logged))]
        if new:
            self._logged.update(new)
            _log.info("a client sends fields that have no effect here: %s", ", ".join(new))
