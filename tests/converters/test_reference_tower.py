"""The reference's tower, one block at a time, computes what the whole tower computes, and says what is damaged."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.converters.reference_tower import reference_features
from edge_llava.converters.tower import build_tower, load_weight
from edge_llava.errors import CheckpointError

pytestmark = pytest.mark.convert

LAST_ROWS = {"vision_feature_layer": -1, "vision_feature_select_strategy": "full", "image_seq_length": 17}


@pytest.mark.parametrize(
    ("fields", "changes"),
    [({}, {}), ({}, LAST_ROWS), ({"tower": "siglip_vision_model"}, {"vision_feature_select_strategy": "full"})],
)
def test_blocks_one_by_one_are_the_whole_tower(make_checkpoint, shape, copy_of, edit_config, fields, changes):
    directory = copy_of(make_checkpoint(shape(**fields), seed=81))
    edit_config(directory, changes)
    checkpoint = Checkpoint.open(str(directory))
    side = checkpoint.tower.image_size
    random = np.random.default_rng(0)
    pixels = [random.standard_normal((n, 3, side, side)).astype(np.float32) for n in (1, 3)]
    whole = build_tower(checkpoint)
    whole.load_state_dict({name: load_weight(checkpoint, name) for name in whole.state_dict()}, assign=True)
    found = reference_features(checkpoint, pixels)
    assert [len(values) for values in found] == [1, 3]
    for values, features in zip(pixels, found, strict=True):
        with torch.inference_mode():
            expected = [whole(torch.from_numpy(square[None]))["patch_features"][0].numpy() for square in values]
        assert features.std() > 0.1
        assert np.array_equal(features, np.stack(expected))


def test_all_that_is_damaged_is_named_at_once(make_checkpoint, shape, copy_of, weights_of, put_weights):
    directory = copy_of(make_checkpoint(shape(), seed=82))
    weights, prefix = weights_of(directory), "vision_tower.vision_model."
    for name in ("pre_layrnorm.bias", "encoder.layers.1.mlp.fc1.weight"):
        weights[prefix + name].view(-1)[3] = float("inf")
    put_weights(directory, weights)
    with pytest.raises(CheckpointError) as raised:
        reference_features(Checkpoint.open(str(directory)), [np.zeros((1, 3, 56, 56), np.float32)])
    for name in ("vision.pre_layrnorm.bias", "vision.encoder.layers.1.mlp.fc1.weight"):
        assert f"{name} contains infinite or undefined numbers" in str(raised.value)
