"""OneVision's tiles and squares: equal to transformers' slow processor, model and counts, and to LLaVA-NeXT's rule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.image_processing_utils import select_best_resolution
from transformers.models.llava_onevision.image_processing_llava_onevision import LlavaOnevisionImageProcessor
from transformers.models.llava_onevision.processing_llava_onevision import LlavaOnevisionProcessor

from edge_llava.runtime.options import EngineOptions
from edge_llava.runtime.vision.anyres import choose_canvas, count_tokens, kept_patches, merge_tiles, scale_patches
from edge_llava.runtime.vision.forms import image_forms
from edge_llava.runtime.vision.preprocess import pixel_values

pytestmark = pytest.mark.convert
SIDE = 384
LISTED = tuple((SIDE * first, SIDE * second) for first in range(1, 7) for second in range(1, 7))
PORTRAIT_FIRST = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))  # LLaVA-1.6's
SIZES = [(384, 384), (640, 480), (480, 640), (1000, 750), (300, 1100), (834, 1200), (800, 1200), (97, 1003)]


@pytest.fixture
def spec(clip_spec):
    """spec(limit, rounded=True) -> OneVision's; in its original layout, pairs are read the other way round."""

    def make(limit=9, *, rounded=True):
        return replace(
            clip_spec("anyres", image_size=SIDE),
            has_class_row=False,
            n_dropped_rows=0,
            image_mean=(0.5, 0.5, 0.5),
            image_std=(0.5, 0.5, 0.5),
            merge="spatial_unpad_rounded" if rounded else "spatial_unpad",
            grid_pinpoints=tuple(pair[::-1] for pair in LISTED) if rounded else LISTED,
            has_newline=True,
            merge_limit=limit,
            several_images="square_with_newline",
        )

    return make


@pytest.fixture(scope="module")
def processor():
    return LlavaOnevisionImageProcessor(
        size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=[list(pair) for pair in LISTED],
        image_mean=[0.5] * 3, image_std=[0.5] * 3,
    )  # fmt: skip


@pytest.mark.parametrize("size", SIZES)
def test_tiles_equal_to_transformers(size, spec, processor, noise):
    image = Image.fromarray(noise(*size, seed=sum(size)))
    expected = processor(image, return_tensors="np")["pixel_values"][0]
    ours = pixel_values(image, spec())
    assert ours.shape == expected.shape
    assert np.abs(ours - expected).max() == 0.0


def test_several_equal_to_transformers(spec, processor, noise):
    images = [Image.fromarray(noise(*size, seed=sum(size))) for size in (*SIZES, (50, 7))]
    expected = processor([images], return_tensors="np")["pixel_values"]
    square = image_forms(spec(), EngineOptions()).choose(len(images))
    assert expected.shape == (len(images), 1, 3, SIDE, SIDE)
    for image, values in zip(images, expected, strict=True):
        assert np.abs(pixel_values(image, square) - values).max() == 0.0


@pytest.mark.parametrize("limit", [9, 4])
def test_counts_equal_to_transformers(limit, spec, processor):
    counting = object.__new__(LlavaOnevisionProcessor)  # its tokenizer has no part in it
    counting.image_processor, counting.num_image_tokens = processor, 729
    counting.vision_aspect_ratio = f"anyres_max_{limit}"
    random = np.random.default_rng(limit)
    for width, height in random.integers(1, 5000, (300, 2)).tolist():
        expected = counting._get_number_of_features(height, width, SIDE, SIDE)
        assert count_tokens((width, height), spec(limit)) == expected, (width, height)


@pytest.mark.parametrize("listed", [LISTED, PORTRAIT_FIRST])
def test_ties_of_canvases_fall_by_the_recorded_order(listed):
    """transformers compares (height, width), LLaVA-NeXT (width, height); the lists hold the same numbers."""
    n_different = 0
    for width, height in np.random.default_rng(5).integers(1, 2500, (2000, 2)).tolist():
        hugging_face = select_best_resolution((height, width), listed)[::-1]
        original = select_best_resolution((width, height), listed)  # the same function with the sides exchanged
        assert choose_canvas((width, height), [pair[::-1] for pair in listed]) == hugging_face
        assert choose_canvas((width, height), listed) == original
        n_different += hugging_face != original
    # with all 36 canvases a smaller one is better than two that are equally good
    assert (n_different > 0) == (listed is PORTRAIT_FIRST)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("limit", [9, 1])
def test_rows_of_the_original(size, limit, spec):
    """LLaVA-NeXT's own steps in torch; int() cuts where transformers rounds."""
    tiled = spec(limit, rounded=False)
    width, height = size
    across, down = (length // SIDE for length in select_best_resolution(size, LISTED))
    random = np.random.default_rng(sum(size))
    tiles = random.standard_normal((1 + across * down, 729, 6)).astype(np.float32)
    newline = random.standard_normal(6).astype(np.float32)
    image = torch.from_numpy(tiles[1:]).view(down, across, 27, 27, 6).permute(4, 0, 2, 1, 3).reshape(6, 27 * down, -1)
    n_rows, n_columns = image.shape[1:]
    if width / height > n_columns / n_rows:
        border = (n_rows - int(height * (n_columns / width))) // 2
        image = image[:, border : n_rows - border]
    else:
        border = (n_columns - int(width * (n_rows / height))) // 2
        image = image[:, :, border : n_columns - border]
    n_rows, n_columns = image.shape[1:]
    times = (n_rows * n_columns / (limit * 27**2)) ** 0.5
    if times > 1.1:
        wanted = [int(n_rows // times), int(n_columns // times)]
        image = torch.nn.functional.interpolate(image[None], wanted, mode="bilinear")[0]
    image = torch.cat((image, torch.from_numpy(newline)[:, None, None].expand(6, image.shape[1], 1)), dim=-1)
    expected = torch.cat((torch.from_numpy(tiles[0]), image.flatten(1, 2).T)).numpy()
    ours = merge_tiles(tiles, newline, size, tiled)
    assert ours.shape == expected.shape == (count_tokens(size, tiled), 6)
    assert kept_patches(size, tiled) == (image.shape[1], image.shape[2] - 1)
    assert np.abs(ours - expected).max() < 3e-5


@pytest.mark.parametrize(("shape", "wanted"), [((54, 81), (49, 73)), ((162, 3), (100, 2)), ((30, 200), (29, 31))])
def test_scaling_equal_to_torch(shape, wanted):
    patches = np.random.default_rng(1).standard_normal((*shape, 5)).astype(np.float32)
    image = torch.from_numpy(patches).permute(2, 0, 1)[None]
    expected = torch.nn.functional.interpolate(image, wanted, mode="bilinear", align_corners=False)[0].permute(1, 2, 0)
    assert np.abs(scale_patches(patches, *wanted) - expected.numpy()).max() < 3e-5
