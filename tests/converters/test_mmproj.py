"""mmproj.gguf: what llama.cpp's own vision computes from it, against the checkpoint."""

from __future__ import annotations

import json

import pytest

from edge_llava.errors import ConversionError

pytestmark = pytest.mark.convert


def parity_of(bundle):
    return json.loads((bundle / "manifest.json").read_text())["parity"]["mmproj"]


def test_llama_cpp_computes_the_same_patches(make_llava, convert_to, shape):
    """Everything matches except what the graph does differently: GELU's tanh form, looked up in half precision."""
    bundle = convert_to(make_llava(shape(layers=3), seed=81), quant="F32", mmproj=True)
    assert (bundle / "mmproj.gguf").is_file()
    parity = parity_of(bundle)
    assert parity["cosine_mean"] > 0.999999
    assert parity["cosine_min"] > 0.99999
    assert parity["max_abs"] < 2e-2


def test_half_precision(make_llava, convert_to, shape):
    parity = parity_of(convert_to(make_llava(shape(), seed=82), quant="Q8_0", mmproj=True))
    assert parity["cosine_min"] > 0.9999


def test_a_linear_projector_stays_linear(make_llava, convert_to, shape, original_layout, weights_of):
    import torch

    llava = make_llava(shape(), seed=83)
    directory = original_layout(llava, mm_projector_type="linear")
    tensors = torch.load(directory / "pytorch_model.bin", weights_only=True)
    linear = {f"model.mm_projector.{part}": tensors[f"model.mm_projector.0.{part}"] for part in ("weight", "bias")}
    tensors = {name: tensor for name, tensor in tensors.items() if "mm_projector" not in name}
    torch.save(tensors | linear, directory / "pytorch_model.bin")
    parity = parity_of(convert_to(directory, quant="F32", mmproj=True))
    assert parity["cosine_min"] > 0.999999
    assert parity["max_abs"] < 3e-2


def test_tiles_and_class_rows_are_refused(make_next, make_llava, convert_to, shape, edit_config, copy_of):
    with pytest.raises(ConversionError, match="cut into tiles"):
        convert_to(make_next(shape(image_size=56), seed=84), mmproj=True)
    full = copy_of(make_llava(shape(), seed=85))
    edit_config(full, {"vision_feature_select_strategy": "full"})
    with pytest.raises(ConversionError, match="the class token's row is used"):
        convert_to(full, mmproj=True)
