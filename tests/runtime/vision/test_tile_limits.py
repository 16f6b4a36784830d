""" "anyres_max", the rule for several images, and `max_tiles`: counts, canvases, forms."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from edge_llava.bundle.vision_spec import VisionSpec, find_vision_faults
from edge_llava.errors import BundleError
from edge_llava.runtime.options import EngineOptions
from edge_llava.runtime.vision.anyres import (
    choose_canvas,
    count_range,
    count_tiles,
    count_tokens,
    find_limit,
    kept_patches,
    merge_tiles,
    scale_patches,
    tile_limits,
)
from edge_llava.runtime.vision.forms import image_forms, limit_tiles

SIDE = 384
# as OneVision's config lists them, (height, width), and as they are kept, (width, height)
CANVASES = tuple((SIDE * across, SIDE * down) for down in range(1, 7) for across in range(1, 7))
# height, width: squares, canvas (height, width), positions of anyres_max_9 and of anyres_max_4
TABLE = {
    (384, 384): (2, (384, 384), 1485, 1485),
    (480, 640): (5, (768, 768), 2929, 2929),
    (750, 1000): (7, (768, 1152), 4725, 3627),
    (1080, 1920): (16, (1152, 1920), 7269, 3649),
    (1200, 800): (13, (1536, 1152), 8721, 3654),
    (3024, 4032): (31, (1920, 2304), 7309, 3627),
}


def onevision(limit: int | None = 9, **changes: object) -> VisionSpec:
    spec = VisionSpec(
        image_size=SIDE,
        patch_size=14,
        hidden_size=1152,
        n_blocks=26,
        has_class_row=False,
        n_dropped_rows=0,
        image_mean=(0.5, 0.5, 0.5),
        image_std=(0.5, 0.5, 0.5),
        aspect="anyres",
        grid_pinpoints=CANVASES,
        merge="spatial_unpad_rounded",
        has_newline=True,
        precision="fp32",
        merge_limit=limit,
        several_images="square_with_newline",
    )
    return replace(spec, **changes)


@pytest.mark.parametrize("shape", TABLE)
def test_published_counts(shape):
    (height, width), (n_tiles, canvas, max_9, max_4) = shape, TABLE[shape]
    assert choose_canvas((width, height), CANVASES) == canvas[::-1]
    assert count_tiles((width, height), onevision()) == n_tiles
    assert count_tokens((width, height), onevision(9)) == max_9
    assert count_tokens((width, height), onevision(4)) == max_4


@pytest.mark.parametrize(
    ("width", "kept", "scaled"),
    [
        (800, (108, 73), (108, 73)),  # 1.0962 times as long and wide as the limit
        (834, (108, 75), (97, 67)),  # 1.1111 times
    ],
)
def test_a_canvas_a_little_above_its_limit_stays(width, kept, scaled):
    size, spec = (width, 1200), onevision(9)
    assert kept_patches(size, onevision(None)) == kept
    assert (math.sqrt(kept[0] * kept[1] / (9 * 27**2)) > 1.1) == (scaled != kept)
    assert kept_patches(size, spec) == scaled
    tiles = np.random.default_rng(0).standard_normal((count_tiles(size, spec), 729, 4)).astype(np.float32)
    merged = merge_tiles(tiles, np.full(4, 7, np.float32), size, spec)
    n_rows, n_columns = scaled
    assert merged.shape == (count_tokens(size, spec), 4) == (729 + n_rows * (n_columns + 1), 4)
    np.testing.assert_array_equal(merged[729:].reshape(n_rows, n_columns + 1, 4)[:, -1], np.full((n_rows, 4), 7))


def test_scaling_keeps_what_is_constant_and_linear():
    across = np.broadcast_to(np.arange(60, dtype=np.float32)[None, :, None], (40, 60, 2))
    scaled = scale_patches(np.ascontiguousarray(across), 20, 30)
    assert scaled.shape == (20, 30, 2)
    expected = np.broadcast_to((2 * np.arange(30) + 0.5)[None, :, None], (20, 30, 2))
    np.testing.assert_allclose(scaled, expected, atol=1e-5)


def test_the_range_bounds_every_image():
    spec = onevision()
    least, most = count_range(spec)
    counts = [count_tokens((w, h), spec) for w in range(50, 3000, 197) for h in range(50, 3000, 189)]
    assert least == 1485
    assert 8600 < max(counts) <= most < 8900


@pytest.mark.parametrize(("n", "most_tiles", "positions"), [(5, 5, 2929), (2, 2, 1317), (31, 31, 7309), (99, 31, 7309)])
def test_fewer_tiles(n, most_tiles, positions):
    limited = limit_tiles(onevision(), n)
    assert count_tiles((4032, 3024), limited) == most_tiles
    assert count_tokens((4032, 3024), limited) == positions


def test_the_smaller_limit_counts():
    recorded = onevision(max_tiles=7)
    assert limit_tiles(recorded, 20) == limit_tiles(recorded, None) == recorded
    assert limit_tiles(recorded, 5).max_tiles == 5
    assert limit_tiles(onevision(), 37) == onevision()  # nothing is left out: the same rows, the same key


def test_limits_that_help():
    assert tile_limits((640, 480), onevision()) == [2, 3, 4]
    assert tile_limits((384, 384), onevision()) == []
    assert find_limit([(4032, 3024)], onevision(), 4000) == 5
    assert find_limit([(4032, 3024)] * 2, onevision(), 4000) == 3
    assert find_limit([(4032, 3024)], onevision(), 700) is None


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (onevision(grid_pinpoints=((768, 384), (768, 768))), "encodes an image as 3 tiles or more, the whole image"),
        (onevision(aspect="pad", grid_pinpoints=(), merge="flat", merge_limit=None), "does not cut images into tiles"),
    ],
)
def test_limits_that_are_refused(spec, says):
    with pytest.raises(BundleError) as caught:
        image_forms(spec, EngineOptions(max_tiles=2))
    assert says in str(caught.value)
    assert "--max-tiles" in str(caught.value)


def test_a_limit_below_the_whole_image_and_one_tile():
    with pytest.raises(ValueError, match="max_tiles must be at least 2"):
        EngineOptions(max_tiles=1)


def test_faults_of_a_manifest():
    assert find_vision_faults(onevision(max_tiles=2)) == []
    faults = find_vision_faults(onevision(grid_pinpoints=((768, 768),), max_tiles=4))
    assert faults == ["vision.max_tiles is 4, and all of vision.grid_pinpoints make more"]


def test_one_of_several_is_a_padded_square_with_a_newline():
    forms = image_forms(onevision(), EngineOptions(max_tiles=5))
    assert forms.choose(1) == forms.alone == onevision(max_tiles=5)
    square = forms.choose(2)
    assert (square.aspect, square.merge, square.has_newline, square.canvases) == ("pad", "flat", True, ())
    assert count_tokens((4032, 3024), square) == 730
    assert find_vision_faults(square) == []
    tiles, newline = np.zeros((1, 729, 3), np.float32), np.ones(3, np.float32)
    merged = merge_tiles(tiles, newline, (4032, 3024), square)
    assert merged.shape == (730, 3)
    assert merged.sum(1).nonzero()[0].tolist() == [729]


def test_most_models_show_several_as_one():
    forms = image_forms(onevision(several_images="as_one"), EngineOptions())
    assert forms.choose(2) is forms.choose(1)
