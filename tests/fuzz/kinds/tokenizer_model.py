"""tokenizer.model of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import tiny_checkpoint
from damage import damage_protobuf
from frame import Kind

from edge_llava.errors import CheckpointError, ConversionError


def make(directory: Path) -> Sequence[bytes]:
    """512 tokens of LLaMA's kind."""
    return [(tiny_checkpoint.write(directory / "checkpoint", "hf") / "tokenizer.model").read_bytes()]


def read(directory: Path, content: bytes) -> None:
    """Reads the checkpoint as a conversion does, and has llama.cpp load the tokens."""
    (directory / "checkpoint" / "tokenizer.model").write_bytes(content)
    tiny_checkpoint.tokenize(directory / "checkpoint")


KIND = Kind(n_cases=60, make=make, damage=damage_protobuf, read=read, errors=(CheckpointError, ConversionError))
