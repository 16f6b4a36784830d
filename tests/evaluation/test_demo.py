"""The demo checkpoint and its pictures, as they are shipped."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from edge_llava import demo
from edge_llava.scenes.drawing import draw_scene
from edge_llava.training.instructions.scene_facts import parse_scene

pytestmark = pytest.mark.convert


def test_it_is_small_and_complete():
    files = {path.name: path.stat().st_size for path in demo.CHECKPOINT.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.model", "preprocessor_config.json", "README.md"} <= set(
        files
    )
    assert sum(files.values()) < 32 << 20
    config = json.loads((demo.CHECKPOINT / "config.json").read_text())
    widths = [
        config[part][name] for part in ("vision_config", "text_config") for name in ("hidden_size", "intermediate_size")
    ]
    assert all(width % 256 == 0 for width in widths)


def test_its_pictures_are_held_out_and_as_described():
    records = [json.loads(line) for line in (demo.PICTURES / "annotations.jsonl").read_text().splitlines()]
    assert len(records) >= 3
    for record in records:
        faults: list[str] = []
        scene = parse_scene(record["scene"], faults)
        assert scene is not None, faults
        assert scene.split == "held-out"
        with Image.open(demo.PICTURES / record["image"]) as picture:
            difference = np.abs(np.asarray(picture.convert("RGB"), int) - np.asarray(draw_scene(scene), int))
        assert difference.mean() < 1  # decoders of JPEG differ by little
