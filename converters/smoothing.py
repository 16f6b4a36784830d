"""Moves activation outliers of the tower into its weights, so that one scale per image fits its activations.

Dividing a channel of an activation by s and multiplying the matching row of the weights by s does not change the
result. If the channel is an output of a LayerNorm, or a channel of v on its way through the attention, the division is
folded into the weights before it. fc2's input comes from an activation function, into which nothing can be folded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from edge_llava.converters.tower import TrimmedTower

_ALPHA = 0.5  # half of an outlier goes to the weights. Source: SmoothQuant, arXiv 2211.10438, equation 4
_SMALLEST = 1e-5

Ranges = dict[torch.nn.Module, torch.Tensor]


@contextmanager
def watch_ranges(tower: TrimmedTower) -> Iterator[Ranges]:
    """Records how large the inputs of the tower's layers become within the `with` block.

    Yields:
        The largest magnitude (K,) of every channel, by the layer that reads it.
    """
    ranges: Ranges = {}

    def note(layer: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        largest = inputs[0].abs().flatten(0, -2).amax(0)
        ranges[layer] = torch.maximum(ranges.get(layer, largest), largest)

    handles = [
        layer.register_forward_pre_hook(note)
        for block in tower.vision_model.encoder.layers
        for layer in (block.self_attn.q_proj, block.self_attn.out_proj, block.mlp.fc1)
    ]
    try:
        yield ranges
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def smooth(tower: TrimmedTower, ranges: Ranges) -> None:
    """Rescales channels inside the tower; its results stay the same up to rounding.

    Args:
        tower: The tower in float32; its weights are replaced.
        ranges: What `watch_ranges` recorded over the calibration images.
    """
    for block in tower.vision_model.encoder.layers:
        attention = block.self_attn
        _balance(attention.v_proj, [attention.out_proj], ranges)
        _balance(block.layer_norm1, [attention.q_proj, attention.k_proj, attention.v_proj], ranges)
        _balance(block.layer_norm2, [block.mlp.fc1], ranges)


def _balance(before: torch.nn.LayerNorm | torch.nn.Linear, layers: Sequence[torch.nn.Linear], ranges: Ranges) -> None:
    """Divides the output channels of `before`, and multiplies the columns of the layers that read them.

    Args:
        before: A LayerNorm, or v_proj: its output channels are the attention's.
        layers: All layers that read them.
        ranges: Largest magnitudes by layer.
    """
    activations = ranges[layers[0]]
    weights = torch.stack([layer.weight.abs().amax(0) for layer in layers]).amax(0)
    scales = activations.clamp(min=_SMALLEST) ** _ALPHA / weights.clamp(min=_SMALLEST) ** (1 - _ALPHA)
    rows = scales if before.weight.ndim == 1 else scales[:, None]
    # new tensors, because those of a float32 checkpoint are mapped from the user's file
    before.weight.data, before.bias.data = before.weight / rows, before.bias / scales
    for layer in layers:
        layer.weight.data = layer.weight * scales
