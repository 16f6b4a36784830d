from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest
from PIL import Image

from edge_llava.runtime.vision import preprocess, scaling
from edge_llava.runtime.vision.preprocess import normalize, pad_and_resize, pad_colour, pixel_values, resize_and_crop


@pytest.mark.parametrize(
    ("colour", "expected"),
    [
        ((0, 0, 0), (-1.7922626, -1.7520971, -1.4802198)),
        ((255, 255, 255), (1.9303361, 2.0748837, 2.1458969)),
        ((122, 116, 104), (-0.01125452, -0.01119600, -0.00133289)),
    ],
)
@pytest.mark.parametrize("aspect", ["pad", "crop", "squash"])
def test_golden_constants(aspect, colour, expected, clip_spec):
    values = pixel_values(Image.new("RGB", (50, 40), colour), clip_spec(aspect, 224))
    centre = values[0, :, 112, 112]
    np.testing.assert_allclose(centre, expected, rtol=0, atol=6e-8)


def test_every_level_is_normalized_in_float32(clip_spec):
    spec = clip_spec("crop")
    levels = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    scaled = (levels.astype(np.float64) * (1 / 255)).astype(np.float32)
    expected = (scaled - np.array(spec.image_mean, np.float32)) / np.array(spec.image_std, np.float32)
    found = normalize([Image.fromarray(levels)], spec)[0]
    assert found.tobytes() == np.ascontiguousarray(expected.transpose(2, 0, 1)).tobytes()


def test_pad_colour(clip_spec):
    spec = clip_spec("pad")
    assert pad_colour(spec) == (122, 116, 104)
    assert pad_colour(dataclasses.replace(spec, image_mean=(0.5, 0.0, 1.0))) == (127, 0, 255)


@pytest.mark.parametrize(("size", "n_above", "n_below"), [((4, 2), 1, 1), ((5, 2), 1, 2), ((5, 4), 0, 1)])
def test_padding_is_centred(size, n_above, n_below):
    """An odd remainder goes below, as in LLaVA."""
    square = np.asarray(pad_and_resize(Image.new("RGB", size, (255, 0, 0)), (1, 2, 3), size[0]))
    assert square.shape == (size[0], size[0], 3)
    column = square[:, 0].tolist()
    assert column == [[1, 2, 3]] * n_above + [[255, 0, 0]] * size[1] + [[1, 2, 3]] * n_below
    tall = np.asarray(pad_and_resize(Image.new("RGB", size[::-1], (255, 0, 0)), (1, 2, 3), size[0]))
    np.testing.assert_array_equal(tall, square.transpose(1, 0, 2))


@pytest.mark.parametrize(
    ("size", "left", "top"),
    [((640, 480), 56, 0), ((480, 640), 0, 56), ((500, 375), 56, 0), ((1024, 899), 23, 0), ((333, 500), 0, 84)],
)
def test_crop_position(size, left, top, noise):
    picture = Image.fromarray(noise(*size))
    width, height = size
    new = (336, int(336 * height / width)) if width <= height else (int(336 * width / height), 336)
    whole = np.asarray(picture.resize(new, Image.Resampling.BICUBIC))
    assert ((new[0] - 336) // 2, (new[1] - 336) // 2) == (left, top)
    np.testing.assert_array_equal(np.asarray(resize_and_crop(picture, 336)), whole[top : top + 336, left : left + 336])


@pytest.mark.parametrize("size", [(1, 4000), (4000, 1), (7, 1000)])
@pytest.mark.parametrize("aspect", ["pad", "crop", "squash"])
def test_extreme_shapes(aspect, size, clip_spec, noise):
    values = pixel_values(Image.fromarray(noise(*size)), clip_spec(aspect))
    assert values.shape == (1, 3, 336, 336)
    assert np.isfinite(values).all()
    assert values.std() > 0.001


class _Largest:
    """The largest image that PIL makes while a test runs; it allocates outside of tracemalloc."""

    def __init__(self, monkeypatch):
        self.n_pixels = 0
        new, resize = Image.new, Image.Image.resize

        def counting_new(mode, size, *args):
            self.n_pixels = max(self.n_pixels, size[0] * size[1])
            return new(mode, size, *args)

        def counting_resize(image, size, *args, **kwargs):
            self.n_pixels = max(self.n_pixels, size[0] * size[1])
            return resize(image, size, *args, **kwargs)

        monkeypatch.setattr(Image, "new", counting_new)
        monkeypatch.setattr(Image.Image, "resize", counting_resize)


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1), (20_000, 300), (300, 4000), (4000, 300)])
@pytest.mark.parametrize("aspect", ["pad", "crop", "squash"])
def test_extreme_shapes_take_little_memory(aspect, size, clip_spec, monkeypatch):
    """Whole, the largest square would have 3.6e9 pixels and the largest resized picture 6.8e9."""
    limit = 1 << 20
    monkeypatch.setattr(preprocess, "_MAX_RESIZED_PIXELS", limit)
    picture, largest = Image.new("RGB", size, (255, 255, 255)), _Largest(monkeypatch)
    values = pixel_values(picture, clip_spec(aspect))
    assert 336 * 336 <= largest.n_pixels <= max(limit, 0 if aspect == "crop" else 336 * max(size))
    if aspect != "pad":
        np.testing.assert_allclose(values[0, :, 0, 0], (1.9303361, 2.0748837, 2.1458969), rtol=0, atol=6e-8)
        assert np.ptp(values, axis=(2, 3)).max() == 0


@pytest.mark.parametrize("size", [(40, 900), (900, 40), (3, 500), (500, 3), (101, 999), (999, 101), (1, 60), (2, 601)])
def test_boxed_crop_differs_by_one_level_at_most(size, monkeypatch, noise):
    picture = Image.fromarray(noise(*size))
    exact = np.asarray(resize_and_crop(picture, 336)).astype(int)
    monkeypatch.setattr(preprocess, "_MAX_RESIZED_PIXELS", 0)
    boxed = np.asarray(resize_and_crop(picture, 336)).astype(int)
    assert np.abs(boxed - exact).max() <= 1


@pytest.fixture
def use_strips_of(monkeypatch):
    """use_strips_of(pixels): more are scaled in strips."""
    return lambda n_pixels: monkeypatch.setattr(scaling, "STRIP_PIXELS", n_pixels)


def scale_whole_square(image, side):
    """What Pillow makes of an image padded to a square."""
    longest = max(image.size)
    square = Image.new("RGB", (longest, longest), (122, 116, 104))
    square.paste(image, tuple((longest - length) // 2 for length in image.size))
    return square.resize((side, side), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("side", [224, 336])
@pytest.mark.parametrize("limit", [1, 5_000, 30_000])
def test_padding_in_strips_is_exact(limit, side, use_strips_of, noise):
    for n, size in enumerate([(640, 480), (480, 641), (1, 400), (400, 1), (37, 911), (911, 38), (335, 336), (2, 1)]):
        picture = Image.fromarray(noise(*size, seed=n))
        whole = np.asarray(scale_whole_square(picture, side))
        use_strips_of(limit)
        np.testing.assert_array_equal(np.asarray(pad_and_resize(picture, (122, 116, 104), side)), whole)


@pytest.mark.parametrize("side", [224, 336])
def test_padding_of_long_strips_differs_by_one_level_at_most(side, use_strips_of, monkeypatch, noise):
    for n, size in enumerate([(1, 4000), (4000, 1), (37, 2911), (700, 3001), (2003, 38), (1500, 1499)]):
        picture = Image.fromarray(noise(*size, seed=n))
        whole = np.asarray(scale_whole_square(picture, side)).astype(int)
        use_strips_of(30_000)
        monkeypatch.setattr(preprocess, "_MAX_PADDED_PIXELS", 30_000)
        boxed = np.asarray(pad_and_resize(picture, (122, 116, 104), side)).astype(int)
        assert np.abs(boxed - whole).max() <= 1


@pytest.mark.parametrize(
    ("size", "side"),
    [((1, 3000), 8), ((1, 4001), 336), ((5, 2911), 24), ((40, 2911), 24), ((3, 3333), 14), ((7, 5000), 64)],
)
def test_narrow_strips_are_exact_without_their_padding(size, side, use_strips_of, monkeypatch, noise):
    picture, calls = Image.fromarray(noise(*size)), []
    whole = np.asarray(scale_whole_square(picture, side))
    scale = preprocess._scale_narrow_rows
    use_strips_of(30_000)
    monkeypatch.setattr(preprocess, "_MAX_PADDED_PIXELS", 30_000)
    monkeypatch.setattr(preprocess, "_scale_narrow_rows", lambda *given: calls.append(1) or scale(*given))
    np.testing.assert_array_equal(np.asarray(pad_and_resize(picture, (122, 116, 104), side)), whole)
    assert calls


def test_the_longest_strip_for_the_smallest_tower_takes_no_time():
    """With its padding it took 19 s."""
    started = time.process_time()
    square = pad_and_resize(Image.new("RGB", (1, 65_535), (0, 0, 0)), (122, 116, 104), 8)
    assert time.process_time() - started < 5
    assert np.asarray(square)[:, 0].tolist() == [[122, 116, 104]] * 8


@pytest.mark.parametrize("size", [(1300, 900), (900, 1300), (1100, 1100), (2100, 520), (520, 2100), (1151, 1533)])
def test_large_images_are_scaled_in_strips_with_the_same_result(size, noise):
    """The strips are scaled by several threads; Pillow scales the whole at once."""
    image, bicubic = Image.fromarray(noise(*size)), Image.Resampling.BICUBIC
    assert size[0] * size[1] > scaling.STRIP_PIXELS
    for wanted in ((336, 336), (672, 336), (336, 336 * size[1] // size[0]), (size[0], 300), (300, size[1])):
        np.testing.assert_array_equal(
            np.asarray(scaling.scale(image, wanted)), np.asarray(image.resize(wanted, bicubic))
        )
    whole = scale_whole_square(image, 336)
    np.testing.assert_array_equal(np.asarray(pad_and_resize(image, (122, 116, 104), 336)), np.asarray(whole))


@pytest.mark.parametrize("n_threads", [1, 4])
def test_a_strip_that_fails_fails_the_whole(n_threads, monkeypatch):
    monkeypatch.setattr(scaling, "usable_threads", lambda wanted: n_threads)
    done = []
    scaling.in_strips(done.append, 10, 3)
    assert sorted(map(list, done)) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
    for fails_at in (0, 3, 9):
        with pytest.raises(ZeroDivisionError):
            scaling.in_strips(lambda rows, at=fails_at: 1 // (rows.start - at), 10, 3)
