"""config.json and the image processor's files of checkpoints in three layouts, and of one with a Qwen2."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import tiny_checkpoint
from damage import damage_json
from frame import Kind

from edge_llava.converters.reference_model import check_reading
from edge_llava.errors import CheckpointError, ConversionError

_LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}  # fmt: skip


def make(directory: Path) -> Sequence[bytes]:
    """A checkpoint of each layout; of 1.5 also with transformers 5's processor files and Llama 3.1's positions."""
    seeds = []
    for layout in ("hf", "next", "original", "qwen2"):
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
            files["config.json"]["text_config"] = text | {"rope_parameters": rope | _LLAMA3}
            seeds.append(json.dumps(files).encode())
    return seeds


def read(directory: Path, content: bytes) -> None:
    """Converts the checkpoint but for its tower, loads the result, and compares the reading with transformers' own."""
    marks = {"original": b'"mm_', "next": b'"llava_next', "qwen2": b'"qwen2"'}
    layout = next((name for name, mark in marks.items() if mark in content), "hf")
    place = directory / layout
    tiny_checkpoint.write_files(place, content, "config.json")
    check_reading(tiny_checkpoint.tokenize(place))


KIND = Kind(n_cases=30, make=make, damage=damage_json, read=read, errors=(CheckpointError, ConversionError))
