"""A conversion loads one tensor at a time, whatever the checkpoint's size."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.convert, pytest.mark.slow]
N_LAYERS = 8  # of 7B width: 1.6 billion parameters, 6.5 GB in float32, 3.2 GB on disk


@pytest.fixture
def wide_checkpoint(seeded_checkpoint: Path, tmp_path: Path) -> Path:
    """The demo's tower and tokenizer with blocks as wide as a 7B model's, one shard per block, made one at a time."""
    import torch
    from safetensors.torch import load_file, save_file
    from seeded_checkpoint import hf_config, hf_name

    from edge_llava.converters.checkpoint_config import read_checkpoint_config
    from edge_llava.converters.expected_tensors import expected_language_shapes, expected_projector_shapes
    from edge_llava.converters.model_configs import LanguageConfig

    directory = tmp_path / "wide"
    shutil.copytree(seeded_checkpoint, directory)
    language = LanguageConfig(4096, 11008, N_LAYERS, 32, 32, 128, 512, 1024, 1e-5, 1e4, None, tied=False)
    tower = read_checkpoint_config(directory).tower
    assert tower is not None
    (directory / "config.json").write_text(json.dumps(hf_config(tower, language)))
    weight_map: dict[str, str] = {}

    def write(shard: str, tensors: dict[str, torch.Tensor]) -> None:
        save_file(tensors, directory / shard, {"format": "pt"})
        weight_map.update(dict.fromkeys(tensors, shard))

    old = load_file(directory / "model.safetensors")
    write("model-tower.safetensors", {name: value for name, value in old.items() if name.startswith("vision_tower")})
    del old
    (directory / "model.safetensors").unlink()
    block = torch.randn(4096, 4096).to(torch.float16) / 64
    shapes = expected_projector_shapes(tower, language, "mlp2x_gelu") | expected_language_shapes(language)
    for index, (name, shape) in enumerate(shapes.items()):
        repeats = [-(-side // 4096) for side in shape]
        values = block.repeat(*repeats)[tuple(map(slice, shape))] if len(shape) == 2 else torch.ones(shape)
        write(f"model-{index}.safetensors", {hf_name(name): values.contiguous()})
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return directory


def test_peak_is_far_below_the_model(wide_checkpoint, tmp_path):
    command = [sys.executable, "-c", "from edge_llava.cli import main; main()", "convert", wide_checkpoint, "--json"]
    done = subprocess.run([*command, "-o", tmp_path / "bundle"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["bytes"] > 0.8e9
    assert report["peak_rss_bytes"] < 2.5e9
