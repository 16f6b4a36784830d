"""One optimizer that uses Muon for the matrices between embeddings and logits, and AdamW for everything else.

With it, a small model that is trained from scratch needs fewer steps. Pretrained models are tuned with AdamW alone, as
LLaVA was.

Source: Muon (Jordan et al., 2024) as in torch.optim, with learning rates matched to AdamW's (Liu et al., 2025).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class MuonForMatrices:
    """The optimizer of a `Schedule`: Muon for `hidden_matrices`, AdamW for the rest.

    Attributes:
        rate: Peak learning rate of the matrices.
        weight_decay: Weight decay of the matrices.
    """

    rate: float
    weight_decay: float = 0.0

    def __call__(
        self, module: torch.nn.Module, make_adamw: Callable[[Sequence[torch.Tensor]], torch.optim.Optimizer]
    ) -> MuonWithAdamW:
        """Makes an optimizer for all trainable parameters of the module."""
        matrices = hidden_matrices(module)
        muon = torch.optim.Muon(matrices, lr=self.rate, weight_decay=self.weight_decay, adjust_lr_fn="match_rms_adamw")
        return MuonWithAdamW(muon, make_adamw(matrices))


class MuonWithAdamW(torch.optim.Optimizer):
    """Two optimizers that share one list of groups and one state, so that schedulers and saved steps see only one."""

    def __init__(self, matrices: torch.optim.Muon, rest: torch.optim.Optimizer) -> None:
        self._parts: tuple[torch.optim.Optimizer, ...] = (matrices, rest)
        super().__init__([*matrices.param_groups, *rest.param_groups], {})
        self._share()

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Takes a step with both optimizers."""
        loss = None if closure is None else closure()
        for part in self._parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Like `torch.optim.Optimizer.load_state_dict`, which replaces the groups and the state."""
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        start = 0
        for part in self._parts:
            n_groups = len(part.param_groups)
            part.param_groups = self.param_groups[start : start + n_groups]
            part.state = self.state
            start += n_groups


def hidden_matrices(module: torch.nn.Module) -> list[torch.Tensor]:
    """The trainable weights of a module's linear layers, except for the head, whose rows are tokens."""
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, torch.nn.Linear)}
    return [
        layer.weight
        for name, layer in layers.items()
        if layer.weight.requires_grad and name.rpartition(".")[2] != "lm_head"
    ]
