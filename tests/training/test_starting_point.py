"""What training starts from is opened without running what its config names."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge_llava.demo import CHECKPOINT

pytestmark = pytest.mark.convert

PRIVATE = {"_attn_implementation": "owner/name", "_attn_implementation_internal": "owner/name"}
OPEN = """
import sys
from pathlib import Path
from transformers.utils import is_kernels_available
import edge_llava.training.starting_point as starting_point
print("kernels:", is_kernels_available())
# as if the reader of configs did not refuse such keys
starting_point.read_checkpoint_config = starting_point.read_tower_config = lambda directory: CONFIG
class CONFIG: layout, aspect, image_mean, image_std = "hf", "pad", (0.5,) * 3, (0.5,) * 3
directories = [Path(argument) for argument in sys.argv[2:]]
if sys.argv[1] == "llava":
    starting_point.open_llava(*directories)
else:
    starting_point.join(*directories, "mlp2x_gelu", 0)
print("opened")
"""
CONTROL = """
import sys
from transformers import LlavaForConditionalGeneration
LlavaForConditionalGeneration.from_pretrained(sys.argv[1], local_files_only=True)
"""


def poison(source: Path, target: Path) -> Path:
    """A copy whose config names a hub repository for its attention, in every section."""
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text())
    sections = {name: config[name] | PRIVATE for name in ("text_config", "vision_config") if name in config}
    (target / "config.json").write_text(json.dumps(config | PRIVATE | sections))
    return target


def run(script: str, kernels: Path, *arguments: object) -> str:
    command = [sys.executable, "-W", "ignore", "-c", script, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(kernels), "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return ended.stdout + ended.stderr


def test_no_kernel_is_fetched_for_a_llava(kernels_stand_in, tmp_path):
    directory = poison(CHECKPOINT, tmp_path / "llava")
    assert "opened" in run(OPEN, kernels_stand_in, "llava", directory)


def test_no_kernel_is_fetched_for_a_tower_and_a_language_model(material, kernels_stand_in, tmp_path):
    tower, language = poison(material.tower, tmp_path / "tower"), poison(material.language, tmp_path / "language")
    assert "opened" in run(OPEN, kernels_stand_in, "join", tower, language)


def test_the_stand_in_is_what_transformers_would_call(kernels_stand_in, tmp_path):
    """Without an attention that is named explicitly; otherwise the tests above could not fail."""
    directory = poison(CHECKPOINT, tmp_path / "llava")
    assert "a kernel was fetched ('owner/name',)" in run(CONTROL, kernels_stand_in, directory)
