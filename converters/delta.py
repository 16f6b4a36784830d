"""A delta and its base: LLaVA v0 and v1.1 were published as differences to LLaMA.

Source: LLaVA's apply_delta.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from edge_llava.converters.tensor_store import TensorInfo, TensorStore
from edge_llava.errors import CheckpointError, list_faults

# Only the delta has rows for new tokens; they are not differences.
_MAY_HAVE_MORE_ROWS = ("language.embed_tokens.weight", "language.lm_head.weight")


class DeltaStore:
    """The sum of delta and base, tensor by tensor, in the precision in which the delta was published.

    Attributes:
        infos: The delta's tensors, whose names and shapes are those of the sum.
    """

    def __init__(self, delta: TensorStore, base: TensorStore, directory: Path, base_directory: Path) -> None:
        """
        Args:
            delta: The difference; contains projector and tower in full.
            base: LLaMA.
            directory, base_directory: Where both are, for messages.

        Raises:
            CheckpointError: If they do not belong together, or the "delta" is a whole model; all faults at once.
        """
        self.infos: Mapping[str, TensorInfo] = delta.infos
        self._delta, self._base = delta, base
        faults = [fault for name in delta.infos if (fault := self._fault(name)) is not None]
        faults += [f"{name} is in the base only" for name in base.infos if name not in delta.infos]
        if faults:
            raise CheckpointError(
                list_faults(f"{directory} is not a delta of {base_directory}:", faults, "Give the LLaMA it is for.")
            )
        self._check_that_it_is_a_delta(directory, base_directory)

    def load(self, name: str) -> torch.Tensor:
        """Returns one tensor of the sum."""
        tensor = self._delta.load(name)
        if name in self._base.infos:
            base = self._base.load(name)
            tensor[: len(base)] += base.to(tensor.dtype)
        return tensor

    def _fault(self, name: str) -> str | None:
        if name not in self._base.infos:
            return f"{name} is not in the base" if name.startswith("language.") else None
        ours, theirs = self.infos[name].shape, self._base.infos[name].shape
        more_rows = name in _MAY_HAVE_MORE_ROWS and ours[1:] == theirs[1:] and ours[0] > theirs[0]
        return None if ours == theirs or more_rows else f"{name} has shape {ours}, in the base {theirs}"

    def _check_that_it_is_a_delta(self, directory: Path, base_directory: Path) -> None:
        name = "language.norm.weight"
        delta, base = (store.load(name).float().norm() for store in (self._delta, self._base))
        if delta > 0.5 * base:
            raise CheckpointError(
                f"{directory} is a whole model, not a delta: its final norm is as large as that of {base_directory}. "
                "Leave --base out."
            )
