"""Fields of requests that are accepted without effect. A header of the answer names them, and the log does so once.

The names are client data. Only a limited number of plain ones is repeated, so that neither a header nor a terminal
receives anything else.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from functools import cache

from edge_llava.server.http.answer_headers import IGNORED
from edge_llava.server.openai.fields import EMPTY, NoEffect
from edge_llava.server.openai.request_model import MAX_IGNORED, RequestModel

_log = logging.getLogger("edge_llava.server")
_PLAIN = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MAX_LOGGED = 200


def list_ignored(request: RequestModel) -> tuple[str, ...]:
    """The fields of a request without effect, each once: "cache_prompt", "messages[].mood"; "..." for more."""
    names: dict[str, None] = {}
    for name in _walk(request, ""):
        names[name] = None
        if len(names) > MAX_IGNORED:
            return (*list(names)[:MAX_IGNORED], "...")
    return tuple(names)


def _walk(model: RequestModel, place: str) -> Iterator[str]:
    marked = _marked(type(model))
    for name, value in model.__dict__.items():
        if value is None:
            continue
        if name in marked and value not in EMPTY:
            yield f"{place}{name}"
        elif isinstance(value, RequestModel):
            yield from _walk(value, f"{place}{name}.")
        elif isinstance(value, list):
            for item in value:
                if isinstance(item, RequestModel):
                    yield from _walk(item, f"{place}{name}[].")
    for name in model.model_extra or ():
        yield f"{place}{name if _PLAIN.fullmatch(name) else '?'}"


@cache
def _marked(model: type[RequestModel]) -> frozenset[str]:
    """The fields of a model that have no effect."""
    fields = model.model_fields.items()
    return frozenset(name for name, field in fields if any(isinstance(mark, NoEffect) for mark in field.metadata))


def ignored_headers(names: Iterable[str]) -> dict[str, str]:
    """The header that names the ignored fields of a request; none if there are no such fields."""
    listed = ", ".join(names)
    return {IGNORED: listed} if listed else {}


class IgnoredLog:
    """Logs every name once, up to a maximum number of names."""

    def __init__(self) -> None:
        self._logged: set[str] = set()

    def note(self, names: Iterable[str]) -> None:
        """Logs the names that are new."""
        new = [name for name in names if name not in self._logged and name != "..."]
        new = new[: max(0, _MAX_LOGGED - len(self._logged))]
        if new:
            self._logged.update(new)
            _log.info("a client sends fields that have no effect here: %s", ", ".join(new))
