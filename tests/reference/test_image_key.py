"""What an image's key depends on, of towers that a converter makes."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from edge_llava.bundle.bundle import Bundle
from edge_llava.runtime.options import EngineOptions
from edge_llava.runtime.vision.image_encoder import tower_digest
from edge_llava.runtime.vision.tower import Tower

pytestmark = pytest.mark.convert


def test_a_tower_tuned_by_one_matrix_has_the_same_graph_and_another_key(
    seeded_checkpoint, converted_f32, convert_to, tmp_path, noise
):
    """Its weights lie beside the graph, whose own digest does not change."""
    tuned = tmp_path / seeded_checkpoint.name  # the name goes into projector.gguf
    shutil.copytree(seeded_checkpoint, tuned)
    for path in tuned.glob("*.safetensors"):
        tensors = load_file(path)
        for name, values in tensors.items():
            if "vision" in name and name.endswith("layers.0.mlp.fc1.weight"):
                tensors[name] = values * np.float32(1.5).astype(values.dtype)
        save_file(tensors, path, {"format": "pt"})
    bundles = [Bundle.open(path) for path in (converted_f32, convert_to(tuned, quant="F32"))]
    manifests = [bundle.manifest for bundle in bundles]
    graphs = {manifest.files["vision"].sha256 for manifest in manifests}
    projectors = {manifest.files["projector"].sha256 for manifest in manifests}
    assert (len(graphs), len(projectors)) == (1, 1)
    assert len({tower_digest(manifest) for manifest in manifests}) == 2
    assert len({Tower(bundle, EngineOptions()).place(noise(64, 48)).key for bundle in bundles}) == 2
