"""adapter_model.safetensors of adapters that peft wrote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

import tiny_checkpoint
from damage import damage_safetensors
from frame import Kind

from edge_llava.errors import CheckpointError, ConversionError

_NAMES = ("peft-0.13", "peft-0.21")


def make(directory: Path) -> Sequence[bytes]:
    """The tensors of two versions of peft, behind a byte that says whose they are."""
    tiny_checkpoint.write(directory / "base", "hf")
    for name in _NAMES:
        (directory / name).mkdir()
        config = (tiny_checkpoint.ADAPTERS / name / "adapter_config.json").read_bytes()
        (directory / name / "adapter_config.json").write_bytes(config)
    tensors = [(tiny_checkpoint.ADAPTERS / name / "adapter_model.safetensors").read_bytes() for name in _NAMES]
    return [bytes([at]) + data for at, data in enumerate(tensors)]


def damage(content: bytes, rng: Random) -> bytes:
    """Other tensors behind the same byte."""
    return content[:1] + damage_safetensors(content[1:], rng)


def read(directory: Path, content: bytes) -> None:
    """Merges the adapter into its base."""
    adapter = directory / _NAMES[content[0]]
    (adapter / "adapter_model.safetensors").write_bytes(content[1:])
    tiny_checkpoint.use(adapter, directory / "base")


KIND = Kind(n_cases=50, make=make, damage=damage, read=read, errors=(CheckpointError, ConversionError))
