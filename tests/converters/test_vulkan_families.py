"""Every family at F16 on Vulkan: the greedy tokens of the CPU. Run by `make test-vulkan`.

Skipped where llama.cpp sees no Vulkan library. The models are in a process of their own, because a driver may end it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import family_checkpoints as made
import family_originals as originals
import family_parts_apart as apart
import pytest
from checkpoint_layouts import Made

from edge_llava.ggml.plugins import plugin_libraries

pytestmark = [
    pytest.mark.slow,
    pytest.mark.convert,
    pytest.mark.skipif(
        not any("ggml-vulkan" in path.name for path in plugin_libraries()), reason="no libggml-vulkan is installed"
    ),
]
Make = Callable[[Path, bytes], Made]  # of a directory, and a tokenizer.model for who needs one
FAMILIES: dict[str, Make] = {
    "Llama 3, xtuner": lambda d, _: made.xtuner_llama_3_transformers(d, 3),
    "Llama 3, 1.6": lambda d, _: made.llama_3_next(d, 5),
    "Yi, 1.6": lambda d, model: made.yi_next(d, 3, model),
    "Phi 3": lambda d, model: made.phi_3_mini(d, 4, model),
    "interleave": lambda d, _: made.interleave(d, 5),
    "OneVision": lambda d, _: made.onevision(d, 1),
    "JoyCaption": lambda d, _: made.joycaption(d, 1),
    "nanoLLaVA": lambda d, _: originals.nanollava(d, 3),
    "Bunny, Llama": lambda d, _: originals.bunny_llama(d, 1),
    "Bunny, Qwen": lambda d, _: originals.bunny_qwen(d, 1),
    "CLIP and Qwen 2": lambda d, _: originals.clip_qwen_2(d, 1),
    "Vicuna, xtuner": lambda d, model: apart.vicuna(d, 3, model),
}
# Plain attention: Vulkan's flash attention rounds otherwise than the CPU's, and Mesa 22.3 crashes while it compiles it
# for heads as small as these.
SCRIPT = """
import json, sys
import numpy as np
from edge_llava import DecoderOptions, EngineOptions, SamplingOptions, load
sizes = [(61, 150, 3), (170, 60, 3)]
images = [np.random.default_rng(seed).integers(0, 256, size, np.uint8) for seed, size in enumerate(sizes)]
greedy = SamplingOptions(temperature=0, max_new_tokens=24, logprobs=20)
runs = []
for n_layers in (0, 99, 1):
    with load(sys.argv[1], EngineOptions(DecoderOptions(n_gpu_layers=n_layers, flash_attention=False))) as model:
        answers = [list(model.session(greedy).ask("What is shown?", image=image)) for image in images]
        tokens = [[token.id for token in answer] for answer in answers]
        likeliest = [[{one.id: one.logprob for one in token.top_logprobs} for token in answer] for answer in answers]
        runs.append([model.language_on, tokens, likeliest])
print(json.dumps(runs))
"""
# A model of random weights holds many tokens almost equally likely. Seeds are such that Mesa's lavapipe answers the
# same; on another device two candidates may change places that are this close, in nats.
NEAR_TIE = 0.02


def check(bundle: Path) -> None:
    """Two answers without the device, with all blocks there, and with one block there."""
    environment = os.environ | {"GGML_VK_VISIBLE_DEVICES": os.environ.get("GGML_VK_VISIBLE_DEVICES", "0")}
    command = [sys.executable, "-c", SCRIPT, str(bundle)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)
    assert ended.returncode == 0, ended.stderr
    (cpu, expected, likeliest), (whole, there, _), (part, split, _) = json.loads(ended.stdout)
    assert cpu == "cpu"
    assert whole.startswith("Vulkan0 ")
    assert part.startswith("Vulkan0 1/")
    assert len({*expected[0], *expected[1]}) > 8  # not one token over and over
    for answers in (there, split):
        for ours, theirs, logprobs in zip(answers, expected, likeliest, strict=True):
            first = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b), None)
            if first is not None:
                gap = logprobs[first][str(theirs[first])] - logprobs[first][str(ours[first])]
                assert gap < NEAR_TIE, (ours, theirs)


@pytest.mark.parametrize("name", FAMILIES)
def test_newer_families(name, tmp_path, convert_to, seeded_checkpoint):
    checkpoint = FAMILIES[name](tmp_path / "checkpoint", (seeded_checkpoint / "tokenizer.model").read_bytes())
    check(convert_to(checkpoint.directory, quant="F16", **checkpoint.options))


@pytest.mark.parametrize("n_kv_heads", [4, 2], ids=["LLaVA-1.5", "Mistral"])
def test_llama(n_kv_heads, make_llava, copy_of, edit_config, shape, convert_to):
    llava = copy_of(make_llava(shape(heads=4, kv_heads=n_kv_heads), seed=76))
    if n_kv_heads == 2:
        edit_config(llava, {"text_config.model_type": "mistral", "text_config.sliding_window": None})
    check(convert_to(llava, quant="F16"))


def test_next(make_next, shape, convert_to):
    check(convert_to(make_next(shape(), 1), quant="F16"))
