"""Moves activation outliers of the tower into its weights, so that one scale per image fits its activations.

Dividing a channel of an activation by s and multiplying the matching row of the weights by s does not change the
result. If the channel is an output of a LayerNorm, or a channel of v on its way through the attention, the division is
folded into the weights before it. fc2's input comes from an activation function, into which nothing can be folded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import nn

_ALPHA = 0.5  # half of an outlier goes to the weights. Source: SmoothQuant, arXiv 2211.10438, equation 4
_SMALLEST = 1e-5
_WATCHED = ("self_attn.q_proj", "self_attn.out_proj", "mlp.fc1")
# A layer whose output channels are divided, and all layers that read them.
_PAIRS = (
    ("self_attn.v_proj", ("self_attn.out_proj",)),
    ("layer_norm1", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    ("layer_norm2", ("mlp.fc1",)),
)


@dataclass(frozen=True, eq=False)
class Rescaling:
    """What becomes of a weight (N, K) or (N,); None leaves it.

    Attributes:
        divisors: Of output channels, (N,).
        factors: Of input channels, (K,); applied second.
    """

    divisors: torch.Tensor | None = None
    factors: torch.Tensor | None = None

    def apply(self, weight: torch.Tensor) -> torch.Tensor:
        """The rescaled weight, a new tensor."""
        if self.divisors is not None:
            weight = weight / (self.divisors if weight.ndim == 1 else self.divisors[:, None])
        return weight if self.factors is None else weight * self.factors


class Smoother:
    """Finds out how a tower's weights are to be rescaled, block by block; the tower's results stay the same up to
    rounding.

    Attributes:
        rescalings: By the names of the tower's state dict; other weights stay as they are.
    """

    def __init__(self) -> None:
        self.rescalings: dict[str, Rescaling] = {}

    @contextmanager
    def watch(self, prefix: str, block: nn.Module) -> Iterator[None]:
        """Records how large the inputs of a block's layers become within the `with` block, and decides by that.

        Args:
            prefix: Of the names of the block's weights: "vision_model.encoder.layers.0.".
            block: With its weights in float32, which are only read.
        """
        ranges: dict[str, torch.Tensor] = {}
        handles = [_note_range(block, name, ranges) for name in _WATCHED]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        for before, layers in _PAIRS:
            self._balance(prefix, block, before, layers, ranges[layers[0]])

    def apply(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """Rescales a weight of the tower's state dict."""
        return self.rescalings[name].apply(weight) if name in self.rescalings else weight

    def _balance(
        self, prefix: str, block: nn.Module, before: str, layers: Sequence[str], activations: torch.Tensor
    ) -> None:
        """Decides by what the output channels of `before` are divided; `activations` are their largest magnitudes."""
        names = [f"{layer}.weight" for layer in layers]
        columns = [self.apply(prefix + name, block.get_parameter(name)).abs().amax(0) for name in names]
        weights = torch.stack(columns).amax(0)
        scales = activations.clamp(min=_SMALLEST) ** _ALPHA / weights.clamp(min=_SMALLEST) ** (1 - _ALPHA)
        for name in (f"{before}.weight", f"{before}.bias"):
            self.rescalings[prefix + name] = Rescaling(divisors=scales)
        for name in names:
            earlier = self.rescalings.get(prefix + name, Rescaling())
            self.rescalings[prefix + name] = replace(earlier, factors=scales)


def _note_range(block: nn.Module, name: str, ranges: dict[str, torch.Tensor]) -> torch.utils.hooks.RemovableHandle:
    """Keeps the largest magnitude (K,) of every channel that a layer reads, by the layer's name."""

    def note(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        largest = inputs[0].abs().flatten(0, -2).amax(0)
        ranges[name] = torch.maximum(ranges.get(name, largest), largest)

    return block.get_submodule(name).register_forward_pre_hook(note)
