"""The index of a checkpoint in two shards."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import tiny_checkpoint
from damage import damage_json
from frame import Kind
from safetensors.torch import save_file

from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.errors import CheckpointError

_INDEX = "model.safetensors.index.json"


def make(directory: Path) -> Sequence[bytes]:
    """The embedding in one shard, everything else in another."""
    place = tiny_checkpoint.write(directory / "checkpoint", "hf")
    (place / "model.safetensors").unlink()
    tensors = tiny_checkpoint.weights("hf")
    shards = [f"model-{n:05}-of-00002.safetensors" for n in (1, 2)]
    shard_of = {name: shards["embed" not in name] for name in tensors}
    for shard in shards:
        save_file({name: tensor for name, tensor in tensors.items() if shard_of[name] == shard}, place / shard)
    return [json.dumps({"metadata": {"total_size": 9}, "weight_map": shard_of}).encode()]


def read(directory: Path, content: bytes) -> None:
    """Opens the checkpoint."""
    (directory / "checkpoint" / _INDEX).write_bytes(content)
    Checkpoint.open(str(directory / "checkpoint"))


KIND = Kind(n_cases=100, make=make, damage=damage_json, read=read, errors=(CheckpointError,))
