"""A bundle that was made before towers could rank patches."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import onnx
import pytest

import edge_llava
from edge_llava.bundle.bundle import describe_file
from edge_llava.errors import BundleError
from edge_llava.runtime.options import DecoderOptions, EngineOptions

pytestmark = pytest.mark.convert


@pytest.fixture
def older(seeded_f32, tmp_path):
    """The small bundle with one output, and a manifest of format version 1 that says nothing of ranking."""
    path = tmp_path / "older"
    shutil.copytree(seeded_f32, path)
    graph = onnx.load(path / "vision.onnx", load_external_data=False)
    del graph.graph.output[1:]
    onnx.save(graph, path / "vision.onnx")
    data = json.loads((path / "manifest.json").read_text())
    for key in ("n_blocks", "has_class_row", "n_dropped_rows", "merge_limit", "several_images", "max_tiles", "ranking"):
        del data["vision"][key]
    data["vision"] |= {"feature_layer": -2, "drop_cls": True}
    for key in ("architecture", "end_ids", "tokenizer"):
        del data["language"][key]
    data["language"] |= {"template": "llava_v1", "image_marks": False}
    data["format_version"] = 1
    data["files"]["vision"] = dataclasses.asdict(describe_file(path / "vision.onnx", path))
    (path / "manifest.json").write_text(json.dumps(data))
    return path


def embed(path, visual_tokens=None):
    options = EngineOptions(DecoderOptions(n_threads=1), n_vision_threads=1, visual_tokens=visual_tokens)
    with edge_llava.load(path, options) as model:
        return model.embed_image(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))


def test_it_works_with_all_tokens_only(older, seeded_f32):
    assert embed(older).data.tobytes() == embed(seeded_f32).data.tobytes()
    with pytest.raises(BundleError) as caught:
        embed(older, visual_tokens=16)
    assert str(caught.value) == (
        "this bundle was converted before its tower could rank patches. Convert the checkpoint again to use "
        "--visual-tokens."
    )
