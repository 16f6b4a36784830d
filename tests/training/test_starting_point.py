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
from edge_llava.errors import CheckpointError

pytestmark = pytest.mark.convert

PRIVATE = {"_attn_implementation": "owner/name", "_attn_implementation_internal": "owner/name"}
OPEN = """
import sys
from pathlib import Path
from transformers.utils import is_kernels_available
from edge_llava.converters.towers import CLIP
import edge_llava.training.starting_point as starting_point
from edge_llava.converters.rope import Rope
print("kernels:", is_kernels_available())
# as if the readers of configs did not refuse such keys
class LANGUAGE: rope = Rope(10000.0, None)
class CONFIG: layout, aspect, image_mean, image_std, language = "hf", "pad", (0.5,) * 3, (0.5,) * 3, LANGUAGE
CONFIG.tower, CONFIG.kind = CONFIG, CLIP
starting_point.read_checkpoint_config = starting_point.read_tower_config = lambda directory: CONFIG
starting_point.read_language_config = lambda directory: LANGUAGE
llava, tower, language = map(Path, sys.argv[1:])
starting_point.open_llava(llava)
print("opened a LLaVA")
starting_point.join(tower, language, "mlp2x_gelu", 0)
print("opened its parts")
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


def test_no_kernel_is_fetched_for_a_llava_nor_for_its_parts(material, kernels_stand_in, tmp_path):
    sources = (CHECKPOINT, material.tower, material.language)
    poisoned = [poison(source, tmp_path / str(index)) for index, source in enumerate(sources)]
    said = run(OPEN, kernels_stand_in, *poisoned)
    assert said.splitlines() == ["kernels: True", "opened a LLaVA", "opened its parts"], said


def test_the_stand_in_is_what_transformers_would_call(kernels_stand_in, tmp_path):
    """Without an attention that is named explicitly; otherwise the tests above could not fail."""
    directory = poison(CHECKPOINT, tmp_path / "llava")
    assert "a kernel was fetched ('owner/name',)" in run(CONTROL, kernels_stand_in, directory)


V5 = {"rope_type": "linear", "factor": 4.0, "rope_theta": 500000.0}
ANGLES = [500000.0 ** -(index / 16) / 4 for index in range(16)]  # of heads of 32


def rewrite(source: Path, target: Path, section: str | None, drop: tuple[str, ...] = (), **changes: object) -> Path:
    """A copy whose config, or a section of it, is changed."""
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text())
    part = config if section is None else config[section]
    for key in drop:
        part.pop(key, None)
    part.update(changes)
    (target / "config.json").write_text(json.dumps(config))
    return target


def test_rotary_positions_that_transformers_5_wrote(material, tmp_path):
    import torch

    from edge_llava.training.llava import Llava
    from edge_llava.training.starting_point import join, open_llava

    old = ("rope_theta", "rope_scaling")
    language = rewrite(material.language, tmp_path / "language", None, old, rope_parameters=V5)
    joined: Llava = join(material.tower, language, "mlp2x_gelu", 0)
    angles = joined.model.model.language_model.rotary_emb.inv_freq
    torch.testing.assert_close(angles, torch.tensor(ANGLES), rtol=1e-6, atol=0.0)
    opened = open_llava(rewrite(CHECKPOINT, tmp_path / "llava", "text_config", old, rope_parameters=V5))
    angles = opened.model.model.language_model.rotary_emb.inv_freq
    n = len(angles)
    expected = torch.tensor([500000.0 ** -(index / n) / 4 for index in range(n)])
    torch.testing.assert_close(angles, expected, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"_attn_implementation": "owner/name"}, "a config must not choose the code that runs"),
        ({"use_kernels": True}, "a config must not choose the code that runs"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rope_parameters is 'yarn'"),
        ({"attention_bias": True}, "attention_bias is true"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0"),
        ({"model_type": "mistral"}, "model_type is 'mistral', expected 'llama'"),
    ],
)
def test_language_models_that_are_refused(material, tmp_path, changes, fault):
    from edge_llava.training.starting_point import join

    language = rewrite(material.language, tmp_path / "language", None, **changes)
    with pytest.raises(CheckpointError, match="language") as error:
        join(material.tower, language, "mlp2x_gelu", 0)
    assert fault in str(error.value)


@pytest.mark.parametrize("extra", ["model.layers.0.self_attn.q_proj.lora_A.weight", "model.layers.0.q_norm.weight"])
def test_tensors_that_training_would_lose(material, tmp_path, extra):
    """An adapter that was never merged would be silently left out."""
    import torch
    from safetensors.torch import load_file, save_file

    from edge_llava.training.starting_point import join

    language = rewrite(material.language, tmp_path / "language", None)
    weights = load_file(language / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights | {extra: torch.ones(4, 64)}, language / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError) as error:
        join(material.tower, language, "mlp2x_gelu", 0)
    assert f"{extra} is not part of the model" in str(error.value)
    assert "model.norm.weight is missing" in str(error.value)
