"""LLaVA-1.6's tiles: sizes as published, rows in their places."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from edge_llava.runtime.vision.anyres import choose_canvas, count_tokens, kept_patches, merge_tiles
from edge_llava.runtime.vision.preprocess import pixel_values

PINPOINTS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
# (width, height): canvas, kept rows and columns, tokens; LLaVA's own count and transformers'
PUBLISHED = {
    (640, 480): ((672, 672), (36, 48), 2340, 2340),
    (480, 640): ((672, 672), (48, 36), 2352, 2352),
    (1024, 899): ((672, 672), (42, 48), 2634, 2634),
    (672, 672): ((672, 672), (48, 48), 2928, 2928),
    (336, 336): ((336, 672), (24, 24), 1176, 1176),
    (200, 200): ((336, 672), (24, 24), 1176, 1176),
    (1000, 100): ((1008, 336), (8, 72), 1160, 1160),
    (100, 1000): ((336, 1008), (72, 8), 1224, 1224),
    (1920, 1080): ((672, 672), (28, 48), 1948, 1948),
    (792, 1408): ((672, 672), (48, 26), 1872, 1968),
    (1408, 792): ((672, 672), (26, 48), 1850, 1948),
}


@pytest.fixture
def spec(clip_spec):
    """spec(merge) -> LLaVA-1.6's."""
    return lambda merge="spatial_unpad": clip_spec("anyres", merge=merge, pinpoints=PINPOINTS)


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_counts(size, spec):
    canvas, kept, tokens, rounded_tokens = PUBLISHED[size]
    assert choose_canvas(size, PINPOINTS) == canvas
    assert kept_patches(size, spec()) == kept
    assert count_tokens(size, spec()) == tokens
    assert count_tokens(size, spec("spatial_unpad_rounded")) == rounded_tokens


def test_other_manners_of_merging_count_the_border(spec):
    assert count_tokens((640, 480), spec("flat")) == 5 * 576
    assert count_tokens((640, 480), spec("spatial")) == 576 + 48 * 48


def test_a_single_square_counts_as_ever(clip_spec):
    assert count_tokens((5000, 20), clip_spec("pad")) == 576
    assert kept_patches((5000, 20), clip_spec("pad")) == (24, 24)


@pytest.mark.parametrize("merge", ["spatial", "spatial_unpad", "spatial_unpad_rounded"])
def test_tiles_that_are_no_multiple_of_the_patch(merge, clip_spec):
    """384 px are 27 patches of 14 px and 6 px that no tile sees: three tiles have 81 columns, not 1152 // 14 = 82."""
    tiled = clip_spec("anyres", image_size=384, merge=merge, pinpoints=((1152, 384),))
    assert tiled.grid_side == 27
    assert kept_patches((1152, 384), tiled) == (27, 81)
    rows = np.arange(4 * 729, dtype=np.float32).reshape(4, 729, 1)
    merged = merge_tiles(rows, None, (1152, 384), tiled)
    np.testing.assert_array_equal(merged[:729], rows[0])
    np.testing.assert_array_equal(merged[729:].reshape(27, 3, 27).swapaxes(0, 1).reshape(3, 729, 1), rows[1:])


@pytest.mark.parametrize(("width", "size"), [(400, (672, 336)), (10_000, (336, 672))])
def test_pixels_of_a_single_row(width, size, noise, clip_spec):
    """transformers takes a picture of one row for one of one channel: LLaVA's own steps, with Pillow."""
    picture = Image.fromarray(noise(width, 1, seed=width))
    canvas, n_rows = Image.new("RGB", size), -(-size[0] // width)
    canvas.paste(picture.resize((size[0], n_rows), Image.Resampling.BICUBIC), (0, (size[1] - n_rows) // 2))
    corners = [(x, y) for y in range(0, size[1], 336) for x in range(0, size[0], 336)]
    squares = [picture.resize((336, 336), Image.Resampling.BICUBIC)]
    squares += [canvas.crop((x, y, x + 336, y + 336)) for x, y in corners]
    spec = clip_spec("anyres", merge="spatial_unpad", pinpoints=PINPOINTS)
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (spec.image_mean, spec.image_std))
    expected = [(np.asarray(square, np.float32).transpose(2, 0, 1) / 255 - mean) / std for square in squares]
    ours = pixel_values(picture, spec)
    assert ours.shape == (3, 3, 336, 336)
    assert np.abs(ours - np.stack(expected)).max() < 1e-6


@pytest.mark.parametrize("size", [*PUBLISHED, (1, 10_000), (10_000, 1), (97, 1003)])
@pytest.mark.parametrize("merge", ["spatial_unpad", "spatial_unpad_rounded", "spatial", "flat"])
def test_every_row_is_in_its_place(size, merge, spec):
    canvas_width, canvas_height = choose_canvas(size, PINPOINTS)
    n_across, n_down = canvas_width // 336, canvas_height // 336
    # each row tells its tile, its row and its column
    tile, row, column = np.meshgrid(np.arange(1 + n_across * n_down), np.arange(24), np.arange(24), indexing="ij")
    rows = np.stack([tile, row, column], -1).reshape(-1, 576, 3).astype(np.float32)
    newline = np.full(3, -1, np.float32) if "unpad" in merge else None
    merged = merge_tiles(rows, newline, size, spec(merge))
    assert merged.shape == (count_tokens(size, spec(merge)), 3)
    assert merged.flags.c_contiguous
    np.testing.assert_array_equal(merged[:576], rows[0])
    if merge == "flat":
        np.testing.assert_array_equal(merged, rows.reshape(-1, 3))
        return
    n_rows, n_columns = kept_patches(size, spec(merge))
    grid = merged[576:].reshape(n_rows, n_columns + (newline is not None), 3)
    if newline is not None:
        np.testing.assert_array_equal(grid[:, -1], np.full((n_rows, 3), -1))
        grid = grid[:, :-1]
    top, left = (canvas_height // 14 - n_rows) // 2, (canvas_width // 14 - n_columns) // 2
    for y in range(n_rows):
        for x in range(n_columns):
            down, across = divmod(top + y, 24), divmod(left + x, 24)
            assert grid[y, x].tolist() == [1 + down[0] * n_across + across[0], down[1], across[1]]
