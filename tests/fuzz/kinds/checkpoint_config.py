"""config.json and the image processor's files of checkpoints in three layouts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import tiny_checkpoint
from damage import damage_json
from frame import Kind

from edge_llava.converters.reference_model import check_reading
from edge_llava.errors import CheckpointError, ConversionError


def make(directory: Path) -> Sequence[bytes]:
    """A checkpoint of each layout; of 1.5 also with the processor's files of transformers 5."""
    seeds = []
    for layout in ("hf", "next", "original"):
        place = tiny_checkpoint.write(directory / layout, layout)
        names = ("config.json", "preprocessor_config.json", "added_tokens.json")
        files = {name: json.loads((place / name).read_text()) for name in names}
        seeds.append(json.dumps(files).encode())
        if layout == "hf":
            files["processor_config.json"] = {"image_processor": files.pop("preprocessor_config.json")}
            rope = {"rope_theta": 10000.0, "rope_type": "default"}
            text = files["config.json"]["text_config"] | {"rope_parameters": rope}
            files["config.json"] |= {"text_config": text}
            seeds.append(json.dumps(files).encode())
    return seeds


def read(directory: Path, content: bytes) -> None:
    """Converts the checkpoint but for its tower, loads the result, and compares the reading with transformers' own."""
    layout = "original" if b'"mm_' in content else "next" if b'"llava_next' in content else "hf"
    place = directory / layout
    tiny_checkpoint.write_files(place, content, "config.json")
    check_reading(tiny_checkpoint.tokenize(place))


KIND = Kind(n_cases=60, make=make, damage=damage_json, read=read, errors=(CheckpointError, ConversionError))
