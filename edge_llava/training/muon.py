"""Muon for the matrices between embeddings and logits, AdamW for all else, as one optimizer.

A small model that learns from nothing finds what a question names in fewer steps. Pretrained models are tuned by
AdamW alone, as LLaVA was.

Source: Muon (Jordan et al., 2024) as torch.optim has it, with rates that mean what AdamW's mean (Liu et al., 2025).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class MuonWithAdamW(torch.optim.Optimizer):
    """Two optimizers with one list of groups and one state: schedulers and saved steps see a single one."""

    def __init__(self, matrices: torch.optim.Muon, rest: torch.optim.Optimizer) -> None:
        self._parts: tuple[torch.optim.Optimizer, ...] = (matrices, rest)
        super().__init__([*matrices.param_groups, *rest.param_groups], {})
        self._share()

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of both."""
        loss = None if closure is None else closure()
        for part in self._parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As `torch.optim.Optimizer.load_state_dict`, which puts new groups and a new state in place of the old."""
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        start = 0
        for part in self._parts:
            n_groups = len(part.param_groups)
            part.param_groups = self.param_groups[start : start + n_groups]
            part.state = self.state
            start += n_groups


def hidden_matrices(*modules: torch.nn.Module) -> list[torch.Tensor]:
    """Weights of the linear layers of some modules that are trained."""
    layers = (layer for module in modules for layer in module.modules() if isinstance(layer, torch.nn.Linear))
    return [layer.weight for layer in layers if layer.weight.requires_grad]
