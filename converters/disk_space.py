"""How much disk space a conversion needs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.converters.language_gguf import plan_language
from edge_llava.converters.options import ConvertOptions
from edge_llava.converters.quant_types import encoded_bytes, projector_type
from edge_llava.errors import ConversionError


def estimate_bytes(checkpoint: Checkpoint, options: ConvertOptions) -> int:
    """Estimates the size of the bundle from shapes alone."""
    language = sum(encoded_bytes(tensor.type, tensor.shape) for tensor in plan_language(checkpoint, options.quant))
    vision = (1 if options.tries_int8 else 2 if options.vision == "fp16" else 4) * count_tower_weights(checkpoint)
    matrix = (checkpoint.config.language.n_embd, checkpoint.tower.hidden_size + checkpoint.config.language.n_embd)
    projector = encoded_bytes(projector_type(options.quant), matrix)
    mmproj = (count_tower_weights(checkpoint) + 4 * matrix[0] * matrix[1]) * (4 if options.quant == "F32" else 2)
    bundle = language + vision + projector if options.size_bytes is None else options.size_bytes
    return bundle + (mmproj if options.mmproj else 0) + (2 << 20)


def count_tower_weights(checkpoint: Checkpoint) -> int:
    """Counts the weights of the tower's blocks, which are nearly all it has."""
    tower = checkpoint.tower
    return checkpoint.n_blocks * (4 * tower.hidden_size**2 + 2 * tower.hidden_size * tower.intermediate_size)


def check_disk(checkpoint: Checkpoint, out: Path, options: ConvertOptions) -> None:
    """
    Raises:
        ConversionError: If the disk that `out` is on has too little space for the bundle.
    """
    parent = next(path for path in (out, *out.parents) if os.path.exists(path))
    free, needed = shutil.disk_usage(parent).free, estimate_bytes(checkpoint, options)
    if options.tries_int8:  # in addition to the float32 tower that it is made from
        needed = max(needed, 6 * count_tower_weights(checkpoint))
    if free < needed:
        sizes = f"{free / 1e6:,.0f} MB free; the bundle needs {needed / 1e6:,.0f} MB"
        raise ConversionError(f"{parent} has {sizes}. Choose another place with -o.")
