"""The model of a conversation, in whose place another bundle may be loaded."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from edge_llava.errors import EdgeLlavaError

if TYPE_CHECKING:
    from edge_llava.bundle.bundle import Bundle
    from edge_llava.runtime.model import LlavaModel


class ModelSlot:
    """Holds one open model, so that two are never in memory together; `with` closes it.

    Attributes:
        model: The model that answers.
    """

    def __init__(self, model: LlavaModel, open_bundle: Callable[[Bundle], LlavaModel]) -> None:
        """Takes an open model, and what opens another bundle with the same settings."""
        self.model, self._open = model, open_bundle

    def __enter__(self) -> ModelSlot:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.model.close()

    def load(self, name: str) -> None:
        """Opens another bundle in the place of this one; where that fails, this one again.

        Raises:
            EdgeLlavaError: If it cannot be opened.
        """
        from edge_llava.bundle.bundle import open_bundle

        wanted, before = open_bundle(name), self.model.bundle
        self.model.close()
        try:
            self.model = self._open(wanted)
        except EdgeLlavaError:
            self.model = self._open(before)
            raise
