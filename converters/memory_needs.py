"""How much memory a conversion takes."""

from __future__ import annotations

import math

from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.converters.disk_space import count_tower_weights

# Bytes for each weight of what a step has in memory at a time, measured and rounded up: ViT-L/14-336, 1.1B and 7B.
_TOWER_BLOCK, _INT8_TOWER, _FLOAT_TOWER, _TENSOR, _LANGUAGE_BLOCK = 60, 2, 7, 8, 7


def estimate_memory(checkpoint: Checkpoint, *, tries_int8: bool) -> int:
    """Estimates from shapes alone what the largest step takes in bytes, besides Python and its libraries.

    The finished language model is mapped when it is compared with the checkpoint. That is not counted: the system can
    take it back.
    """
    tower = count_tower_weights(checkpoint)
    tensors = {name: math.prod(checkpoint.shape(name)) for name in checkpoint.language_tensors()}
    steps = (
        _TOWER_BLOCK * tower // checkpoint.n_blocks,
        (_INT8_TOWER if tries_int8 else _FLOAT_TOWER) * tower,  # in ONNX Runtime
        _TENSOR * max(tensors.values()),
        _LANGUAGE_BLOCK * sum(size for name, size in tensors.items() if name.startswith("language.layers.0.")),
    )
    return max(steps)
