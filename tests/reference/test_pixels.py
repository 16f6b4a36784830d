"""Pixel values are those of transformers' processors, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPImageProcessor, SiglipImageProcessor
from transformers.models.llava.image_processing_llava import LlavaImageProcessor
from transformers.models.llava_next.image_processing_llava_next import LlavaNextImageProcessor

from edge_llava.home.image_files.opening import open_image
from edge_llava.runtime.vision.preprocess import pixel_values

pytestmark = pytest.mark.convert
SIZES = [
    (640, 480), (480, 640), (500, 375), (1024, 899), (333, 500), (336, 336), (224, 224), (672, 672), (200, 200),
    (1, 1), (2, 1), (1, 2), (3, 7), (7, 3), (335, 337), (337, 335), (223, 225), (101, 99), (1000, 100), (100, 1000),
    (13, 400), (400, 13), (1, 60), (60, 1), (1920, 108),
]  # fmt: skip
PINPOINTS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
TILED = [
    (640, 480), (480, 640), (1024, 899), (672, 672), (336, 336), (200, 200), (1000, 100), (100, 1000), (1920, 1080),
    (792, 1408), (1408, 792), (500, 375), (4000, 3000), (1, 400), (1, 10_000), (333, 337), (701, 1007),
]  # fmt: skip


def reference_pixels(image, aspect, size, **options):
    """What transformers' slow processor of the same aspect handling makes of an image."""
    square = {"height": size, "width": size}
    if aspect == "squash":
        clip = CLIPImageProcessor()
        processor = SiglipImageProcessor(size=square, image_mean=clip.image_mean, image_std=clip.image_std)
        return processor(image.convert("RGB"), return_tensors="np", **options)["pixel_values"]
    sizes = {"size": {"shortest_edge": size}, "crop_size": square}
    processor = CLIPImageProcessor(**sizes) if aspect == "crop" else LlavaImageProcessor(do_pad=True, **sizes)
    return processor(image, return_tensors="np", **options)["pixel_values"]


@pytest.mark.parametrize("size", [224, 336])
@pytest.mark.parametrize("aspect", ["pad", "crop", "squash"])
def test_equal_to_transformers(aspect, size, clip_spec, noise):
    spec = clip_spec(aspect, size)
    for n, (width, height) in enumerate(SIZES):
        image = Image.fromarray(noise(width, height, seed=n))
        expected = reference_pixels(image, aspect, size, input_data_format="channels_last")
        found = pixel_values(image, spec)
        assert found.shape == expected.shape == (1, 3, size, size)
        assert found.dtype == expected.dtype == np.float32
        assert found.flags.c_contiguous
        assert np.abs(found - expected).max() == 0.0, (width, height)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK"])
@pytest.mark.parametrize("aspect", ["pad", "crop", "squash"])
def test_modes_equal_to_transformers(aspect, mode, clip_spec, noise):
    image = Image.fromarray(noise(90, 61)).convert(mode)
    converted = image.convert("RGB")  # LlavaImageProcessor pads before it converts, LLaVA's own code after
    expected = reference_pixels(converted if aspect == "pad" else image, aspect, 224)
    assert np.abs(pixel_values(open_image(image), clip_spec(aspect, 224)) - expected).max() == 0.0


@pytest.mark.parametrize("size", [(6000, 4000), (4000, 6000), (1, 30_000), (30_000, 1), (20_000, 500), (500, 20_000)])
def test_large_images_squashed(size, clip_spec, noise):
    image = Image.fromarray(noise(*size))
    expected = reference_pixels(image, "squash", 336, input_data_format="channels_last")
    assert np.abs(pixel_values(image, clip_spec("squash")) - expected).max() == 0.0


@pytest.mark.parametrize("size", TILED)
@pytest.mark.parametrize("swapped", [False, True])
def test_tiles_equal_to_transformers(size, swapped, noise, clip_spec):
    pinpoints = tuple((b, a) for a, b in PINPOINTS) if swapped else PINPOINTS
    processor = LlavaNextImageProcessor(
        size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336},
        image_grid_pinpoints=[[height, width] for width, height in pinpoints],
    )  # fmt: skip
    image = Image.fromarray(noise(*size, seed=sum(size)))
    reference = processor(image, return_tensors="np")["pixel_values"][0]
    ours = pixel_values(image, clip_spec("anyres", merge="spatial_unpad", pinpoints=pinpoints))
    assert ours.shape == reference.shape
    assert ours.dtype == reference.dtype
    assert np.abs(ours - reference).max() == 0.0
