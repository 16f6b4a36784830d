"""A tower is converted block by block: what it takes depends on a block, not on the tower."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.convert,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets an earlier peak"),
]
N_BLOCKS = 24
BLOCK_BYTES = 4 * (4 * 512**2 + 2 * 512 * 2048)  # 13 MB
MEASURED = """
import sys
from pathlib import Path
from edge_llava.conversion.calibration import builtin_images
from edge_llava.converters import pipeline
from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.converters.options import ConvertOptions
from edge_llava.device.memory import peak_rss_bytes, return_freed_memory
from edge_llava.home.progress import silent

def convert(directory, out):
    out.mkdir()
    options = ConvertOptions(vision="int8")
    pipeline._export_tower(Checkpoint.open(directory), out, options, builtin_images(), silent, keeps_features=False)

convert(sys.argv[1], Path(sys.argv[3]))  # a small one, which loads what is loaded once
return_freed_memory()
Path("/proc/self/clear_refs").write_text("5")  # forget the peak
before = peak_rss_bytes()
convert(sys.argv[2], Path(sys.argv[4]))
print(peak_rss_bytes() - before)
"""


@pytest.fixture(scope="module")
def wide_tower(seeded_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose tower is 300 MB in float32, and sees 4 patches."""
    import torch
    from safetensors.torch import load, save_file
    from seeded_checkpoint import hf_config, hf_name

    from edge_llava.converters.checkpoint_config import read_checkpoint_config
    from edge_llava.converters.expected_tensors import expected_projector_shapes, expected_vision_shapes
    from edge_llava.converters.model_configs import TowerConfig

    directory = tmp_path_factory.mktemp("wide") / "llava"
    shutil.copytree(seeded_checkpoint, directory)
    language = read_checkpoint_config(directory).language
    tower = TowerConfig(
        512, 2048, N_BLOCKS + 1, 8, image_size=28, patch_size=14, layer_norm_eps=1e-5, hidden_act="quick_gelu"
    )
    (directory / "config.json").write_text(json.dumps(hf_config(tower, language)))
    tensors = load((directory / "model.safetensors").read_bytes())
    tensors = {name: value for name, value in tensors.items() if name.startswith("language_model")}
    noise = torch.randn(1024, 1024, generator=torch.Generator().manual_seed(0)).to(torch.float16) / 24
    shapes = expected_vision_shapes(tower, N_BLOCKS + 1) | expected_projector_shapes(tower, language, "mlp2x_gelu")
    for name, shape in shapes.items():
        repeats = -(-torch.Size(shape).numel() // noise.numel())
        values = noise.flatten().repeat(repeats)[: torch.Size(shape).numel()].reshape(shape)
        tensors[hf_name(name)] = torch.ones(shape, dtype=torch.float16) if "norm" in name else values.contiguous()
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    return directory


def test_peak_is_far_below_the_tower(wide_tower, seeded_checkpoint, tmp_path):
    """In int8, for which the float32 tower is written too."""
    places = [tmp_path / "small", tmp_path / "wide"]
    command = [sys.executable, "-c", MEASURED, seeded_checkpoint, wide_tower, *places]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=one_thread)
    assert done.returncode == 0, done.stderr
    data = places[1] / "vision.onnx.data"
    assert data.stat().st_size > N_BLOCKS * BLOCK_BYTES / 4
    assert int(done.stdout) < 10 * BLOCK_BYTES
