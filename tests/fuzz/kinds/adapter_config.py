"""adapter_config.json beside the tensors of adapters that peft wrote."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import tiny_checkpoint
from damage import damage_json
from frame import Kind

from edge_llava.converters.reference_model import check_reading
from edge_llava.errors import CheckpointError, ConversionError

_TENSORS = "adapter_model.safetensors"


def make(directory: Path) -> Sequence[bytes]:
    """The settings of two versions of peft, with the name of their tensors' directory."""
    tiny_checkpoint.write(directory / "base", "hf")
    (directory / "adapter").mkdir()
    names = ("peft-0.13", "peft-0.21")
    config = "adapter_config.json"
    return [
        json.dumps({config: json.loads((tiny_checkpoint.ADAPTERS / name / config).read_text()), "of": name}).encode()
        for name in names
    ]


def read(directory: Path, content: bytes) -> None:
    """Merges the adapter into its base, and compares the result with peft's."""
    name = "peft-0.13" if b'"peft-0.13"' in content else "peft-0.21"
    (directory / "adapter" / _TENSORS).write_bytes((tiny_checkpoint.ADAPTERS / name / _TENSORS).read_bytes())
    tiny_checkpoint.write_files(directory / "adapter", content, "adapter_config.json")
    check_reading(tiny_checkpoint.use(directory / "adapter", directory / "base"))


KIND = Kind(n_cases=12, make=make, damage=damage_json, read=read, errors=(CheckpointError, ConversionError))
