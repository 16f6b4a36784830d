"""The tower's features as the reference computes them: by transformers' own blocks in float32, one block at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.converters.tower import build_tower, load_weight, own_name
from edge_llava.device.memory import trim_heap
from edge_llava.errors import CheckpointError, list_faults

# watch(prefix of a block's weights, block) -> entered while the block computes, and left before its weights are freed
Watch = Callable[[str, nn.Module], AbstractContextManager[None]]


def _unwatched(prefix: str, block: nn.Module) -> AbstractContextManager[None]:
    return nullcontext()


@torch.inference_mode()
def reference_features(
    checkpoint: Checkpoint, pixels: Sequence[NDArray[np.float32]], watch: Watch = _unwatched
) -> list[NDArray[np.float32]]:
    """Computes patch features (T, P, D) of each pixel values (T, 3, S, S).

    A block sees the squares of all images before the next block's weights are loaded: each weight is loaded once, and
    what is kept in memory is one block and the rows of all squares.

    Raises:
        CheckpointError: If the tower's activation is unknown, or weights are not finite; all at once.
    """
    tower = build_tower(checkpoint)
    model, encoder = tower.vision_model, tower.vision_model.encoder
    blocks, encoder.layers = encoder.layers, nn.ModuleList()
    faults = _load(checkpoint, model, "vision_model.")
    rows = [
        model(pixel_values=torch.from_numpy(square[None])).last_hidden_state for values in pixels for square in values
    ]
    for index, block in enumerate(blocks):
        prefix = f"vision_model.encoder.layers.{index}."
        faults += _load(checkpoint, block, prefix)
        if not faults:
            encoder.layers = nn.ModuleList([block])
            with watch(prefix, block):
                for square, hidden in enumerate(rows):
                    rows[square] = encoder(inputs_embeds=hidden).last_hidden_state
        block.to("meta")  # before the next one is loaded
        trim_heap()
    if faults:
        raise CheckpointError(list_faults("the vision tower is damaged:", faults))
    squares = iter(tower.select(hidden)[0].numpy() for hidden in rows)
    return [np.stack([next(squares) for _ in values]) for values in pixels]


def _load(checkpoint: Checkpoint, part: nn.Module, prefix: str) -> list[str]:
    """Loads a part's weights; returns what is wrong with them."""
    weights = {name: load_weight(checkpoint, prefix + name) for name in part.state_dict()}
    part.load_state_dict(weights, assign=True)
    return [
        f"{own_name(prefix + name)} contains infinite or undefined numbers"
        for name, values in weights.items()
        if not torch.isfinite(values).all()
    ]
