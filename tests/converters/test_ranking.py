"""What patches are ranked and merged by: equal to transformers' own attention and keys of the selected layer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from edge_llava.bundle.bundle import Bundle
from edge_llava.bundle.row_cosines import row_cosines
from edge_llava.runtime.options import EngineOptions
from edge_llava.runtime.vision.encoder import VisionEncoder
from edge_llava.runtime.vision.visual_tokens import RankedPatches

pytestmark = pytest.mark.convert

MAX_ABS = 1e-5


@pytest.fixture
def pixels() -> np.ndarray:
    """Two squares."""
    return np.random.default_rng(0).standard_normal((2, 3, 56, 56)).astype(np.float32)


@pytest.fixture
def rank(pixels) -> Callable[[Path], list[RankedPatches]]:
    """rank(bundle directory) -> what its tower computes from each square."""

    def run(path: Path) -> list[RankedPatches]:
        bundle = Bundle.open(path)
        encoder = VisionEncoder(
            bundle.file("vision"), bundle.manifest.vision, EngineOptions(n_vision_threads=1, vision_provider="cpu")
        )
        try:
            return [encoder.rank(square[None]) for square in pixels]
        finally:
            encoder.close()

    return run


@pytest.fixture
def eager(pixels) -> Callable[[Path], tuple[np.ndarray, np.ndarray]]:
    """eager(checkpoint directory) -> attention (B, P) and keys (B, P, D / heads), by transformers.

    Eager attention, since no other gives its weights; keys as VisionZip takes them, those that k_proj gives.
    """
    import torch
    from transformers import LlavaForConditionalGeneration

    def run(directory: Path) -> tuple[np.ndarray, np.ndarray]:
        model = LlavaForConditionalGeneration.from_pretrained(
            directory, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        tower, layer = model.model.vision_tower, model.config.vision_feature_layer
        n_heads = tower.config.num_attention_heads
        seen: list[torch.Tensor] = []
        tower.vision_model.encoder.layers[layer].self_attn.k_proj.register_forward_hook(
            lambda module, inputs, output: seen.append(output)
        )
        with torch.inference_mode():
            found = tower(torch.from_numpy(pixels), output_attentions=True)
        attention = found.attentions[layer][:, :, 0, 1:].mean(1)
        n_squares, n_rows, _ = seen[0].shape
        keys = seen[0].view(n_squares, n_rows, n_heads, -1).mean(2)[:, 1:]
        return attention.numpy(), keys.numpy()

    return run


def assert_near(found: list[RankedPatches], expected: tuple[np.ndarray, np.ndarray], attention: float, keys: float):
    for patches, own_attention, own_keys in zip(found, *expected, strict=True):
        assert patches.attention.dtype == patches.keys.dtype == np.float32
        assert patches.attention.shape == own_attention.shape
        assert patches.keys.shape == own_keys.shape
        assert np.abs(patches.attention - own_attention).max() < attention
        assert np.abs(patches.keys - own_keys).max() < keys


@pytest.mark.parametrize(
    ("heads", "changes"), [(4, {}), (2, {"vision_feature_layer": -1}), (8, {"vision_feature_layer": -3})]
)
def test_as_transformers_computes_it(
    make_llava, convert_to, shape, copy_of, edit_config, rank, eager, heads: int, changes: Any
):
    checkpoint = copy_of(make_llava(shape(vision_heads=heads, vision_layers=4), seed=40))
    edit_config(checkpoint, changes)
    attention, keys = eager(checkpoint)
    assert attention.max() > 2 * attention.min()
    assert np.abs(keys).max() > 0.1
    found = rank(convert_to(checkpoint, quant="F32"))
    assert_near(found, (attention, keys), MAX_ABS, MAX_ABS)
    # half precision keeps three digits of what was saved in single precision
    assert_near(rank(convert_to(checkpoint, quant="F32", vision="fp16")), (attention, keys), 1e-3, 1e-2)


def test_of_the_int8_tower(make_llava, convert_to, shape, rank, eager):
    checkpoint = make_llava(shape(), seed=41)
    bundle = convert_to(checkpoint, vision="int8")
    assert Bundle.open(bundle).manifest.vision.quantization.count("int8") > 0
    for patches, attention, keys in zip(rank(bundle), *eager(checkpoint), strict=True):
        cosine_of_attention = row_cosines(patches.attention[None], attention[None])
        cosines = np.concatenate([cosine_of_attention, row_cosines(patches.keys, keys)])
        assert 0.99 < cosines.min() < cosines.max() < 1 - 1e-7


def test_several_squares_at_once(make_llava, convert_to, shape, rank, pixels):
    bundle = convert_to(make_llava(shape(), seed=42), quant="F32")
    session = onnxruntime.InferenceSession(bundle / "vision.onnx", providers=["CPUExecutionProvider"])
    shapes = {output.name: output.shape[1:] for output in session.get_outputs()}
    assert shapes == {"patch_features": [16, 64], "cls_attention": [16], "patch_keys": [16, 16]}
    together = session.run(list(shapes), {"pixel_values": pixels})
    for index, patches in enumerate(rank(bundle)):
        for whole, own in zip(together, (patches.features, patches.attention, patches.keys), strict=True):
            assert np.abs(whole[index] - own).max() < 1e-5


def test_where_the_class_token_is_kept_nothing_ranks(make_llava, convert_to, shape, copy_of, edit_config):
    checkpoint = copy_of(make_llava(shape(), seed=43))
    edit_config(checkpoint, {"vision_feature_select_strategy": "full", "image_seq_length": 17})
    bundle = convert_to(checkpoint, quant="F32")
    assert json.loads((bundle / "manifest.json").read_text())["vision"]["ranking"] == "none"
    session = onnxruntime.InferenceSession(bundle / "vision.onnx", providers=["CPUExecutionProvider"])
    assert [(output.name, output.shape[1:]) for output in session.get_outputs()] == [("patch_features", [17, 64])]
