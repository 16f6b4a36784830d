"""model.safetensors of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import tiny_checkpoint
from damage import damage_safetensors
from frame import Kind

from edge_llava.errors import CheckpointError, ConversionError


def make(directory: Path) -> Sequence[bytes]:
    """Of a LLaVA-1.5."""
    return [(tiny_checkpoint.write(directory / "checkpoint", "hf") / "model.safetensors").read_bytes()]


def read(directory: Path, content: bytes) -> None:
    """Reads the checkpoint as a conversion does."""
    (directory / "checkpoint" / "model.safetensors").write_bytes(content)
    tiny_checkpoint.use(directory / "checkpoint")


KIND = Kind(n_cases=100, make=make, damage=damage_safetensors, read=read, errors=(CheckpointError, ConversionError))
