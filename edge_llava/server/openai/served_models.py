"""The names under which the bundle is served."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edge_llava.device.onnx_packages import expected_provider
from edge_llava.home.directories import MANIFEST_NAME
from edge_llava.runtime.model import LlavaModel
from edge_llava.server.http.errors import RequestError

_ANY = "default"  # the name that clients use if they must give one


class ServedModels:
    """One bundle under its own name and its aliases.

    Attributes:
        name: The name in answers: the first alias, or the bundle's name if there is none.
    """

    def __init__(self, engine: LlavaModel, aliases: Sequence[str] = ()) -> None:
        """
        Args:
            engine: The bundle that is served.
            aliases: Names that clients may use in addition to the bundle's.
        """
        bundle = engine.bundle
        self.name = aliases[0] if aliases else bundle.name
        self._has_aliases = bool(aliases)
        names = dict.fromkeys((*aliases, bundle.name))
        created = int((bundle.path / MANIFEST_NAME).stat().st_mtime)
        about = {"object": "model", "created": created, "owned_by": "edge-llava"}
        ours = {"n_ctx": engine.n_ctx, "notice": bundle.manifest.notice}
        self._engine = engine
        self._entries = {name: {"id": name, **about, **ours} for name in names}

    def list(self) -> dict[str, Any]:
        """Returns OpenAI's list object."""
        places = self._places()
        return {"object": "list", "data": [entry | places for entry in self._entries.values()]}

    def find(self, name: str) -> dict[str, Any]:
        """Returns OpenAI's model object.

        Raises:
            RequestError: 404 if there is no model of that name.
        """
        if name != _ANY and name not in self._entries:
            raise self._unknown(name)
        return self._entries.get(name, self._entries[self.name]) | self._places()

    def check(self, name: str | None) -> None:
        """Checks the name in a request. Without aliases, every name means the model that is served.

        Raises:
            RequestError: 404 if there are aliases and the name is not an alias, the bundle's name, or "default".
        """
        if self._has_aliases and name is not None and name != _ANY and name not in self._entries:
            raise self._unknown(name)

    def _places(self) -> dict[str, Any]:
        """Where the model computes; the vision tower is only opened for the first image."""
        vision_on = self._engine.vision_on or expected_provider(self._engine.options.vision_provider)
        return {"language_on": self._engine.language_on, "vision_on": vision_on}

    def _unknown(self, name: str) -> RequestError:
        served = ", ".join(self._entries)
        message = f"The model {name[:100]!r} does not exist. Served: {served}; --alias NAME adds names."
        return RequestError(404, message, code="model_not_found", param="model")
