"""The names under which the bundle is served."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edge_llava.bundle.bundle import Bundle
from edge_llava.home.directories import MANIFEST_NAME
from edge_llava.server.openai.errors import RequestFault

_ANY = "default"  # what clients say that must name a model and mean the one there is


class ServedModels:
    """One bundle under its own name and others.

    Attributes:
        name: The bundle's own, or the first of the others; what answers say.
    """

    def __init__(self, bundle: Bundle, n_ctx: int, aliases: Sequence[str] = ()) -> None:
        """
        Args:
            bundle: What is served.
            n_ctx: Positions of a conversation.
            aliases: Names that clients may use beside the bundle's.
        """
        self.name = aliases[0] if aliases else bundle.name
        self._has_aliases = bool(aliases)
        names = dict.fromkeys((*aliases, bundle.name))
        created = int((bundle.path / MANIFEST_NAME).stat().st_mtime)
        self._entries = {
            name: {"id": name, "object": "model", "created": created, "owned_by": "edge-llava", "n_ctx": n_ctx}
            for name in names
        }

    def list(self) -> dict[str, Any]:
        """OpenAI's list object."""
        return {"object": "list", "data": [*self._entries.values()]}

    def find(self, name: str) -> dict[str, Any]:
        """OpenAI's model object.

        Raises:
            RequestFault: 404 if there is none of that name.
        """
        if name != _ANY and name not in self._entries:
            raise self._unknown(name)
        return self._entries.get(name, self._entries[self.name])

    def check(self, name: str | None) -> None:
        """Checks the name in a question. Without aliases, every name means the one model there is.

        Raises:
            RequestFault: 404 if there are aliases, and the name is not among them, nor the bundle's, nor "default".
        """
        if self._has_aliases and name is not None and name != _ANY and name not in self._entries:
            raise self._unknown(name)

    def _unknown(self, name: str) -> RequestFault:
        served = ", ".join(self._entries)
        message = f"The model {name[:100]!r} does not exist. Served: {served}; --alias NAME adds names."
        return RequestFault(404, message, code="model_not_found", param="model")
