"""Image to pixel values, equal (max difference 0.0) to transformers' slow processors of CLIP, SigLIP and LLaVA.

Source: LLaVA's mm_utils.process_images, transformers' CLIPImageProcessor and SiglipImageProcessor (the torchvision
"fast" ones differ).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edge_llava.bundle.vision_spec import VisionSpec
from edge_llava.runtime.vision.anyres import cut_tiles
from edge_llava.runtime.vision.scaling import STRIP_PIXELS, scale, scale_rows, source_span

# Above this many pixels the resized image of "crop" is not built whole. A crop of 1 x 4000 px would otherwise build
# 336 x 1,344,000: only the part that it keeps is computed, from the same source rows; rounding may differ by one level.
_MAX_RESIZED_PIXELS = 1 << 26
# Above this many, rows of a padded image are not scaled whole: those of 1 x 50,000 would take 14 seconds.
_MAX_PADDED_PIXELS = 1 << 28
_NARROW = 4  # an image so many times narrower than what is scaled of its padded rows is computed without padding
_WEIGHT_BITS = 22  # of Pillow's fixed-point weights. Source: PRECISION_BITS of its Resample.c


def pixel_values(image: Image.Image, spec: VisionSpec) -> NDArray[np.float32]:
    """The tower's input for an RGB image of any size, as `normalize` gives it."""
    return normalize(cut_squares(image, spec), spec)


def cut_squares(image: Image.Image, spec: VisionSpec) -> list[Image.Image]:
    """What the tower will see of an image, before normalization: RGB squares of side S."""
    if spec.aspect == "anyres":
        return cut_tiles(image, spec)
    if spec.aspect == "pad":
        return [pad_and_resize(image, pad_colour(spec), spec.image_size)]
    if spec.aspect == "squash":
        return [scale(image, (spec.image_size, spec.image_size))]
    return [resize_and_crop(image, spec.image_size)]


def pad_colour(spec: VisionSpec) -> tuple[int, int, int]:
    """The RGB colour around a padded image: the mean, truncated to 8 bits; (122, 116, 104) for CLIP."""
    red, green, blue = (int(mean * 255) for mean in spec.image_mean)
    return red, green, blue


def pad_and_resize(image: Image.Image, colour: tuple[int, int, int], side: int) -> Image.Image:
    """Centres the image on a square and scales that to (side, side); equal to doing one after the other.

    The square is not built, which bounds memory and time. Where the longest side is above 16,384 pixels, some may
    differ by one level.
    """
    (width, height), longest = image.size, max(image.size)
    left, top, columns = (longest - width) // 2, (longest - height) // 2, range(side)
    is_long = longest * longest > _MAX_PADDED_PIXELS
    if is_long:  # only what the image reaches
        columns = columns[max(0, left * side // longest - 3) : math.ceil((left + width) * side / longest) + 3]
    _, _, first, last = source_span(columns, longest / side, longest)
    if is_long and width * _NARROW < last - first:
        rows = _scale_narrow_rows(image, colour, side, columns)
    else:
        rows = scale_rows(image, longest, side, columns, left, colour)
    square = Image.new("RGB", (side, longest), colour)
    square.paste(rows, (columns.start, top))
    return square.resize((side, side), Image.Resampling.BICUBIC)


def _scale_narrow_rows(image: Image.Image, colour: tuple[int, int, int], side: int, columns: range) -> Image.Image:
    """As `scale_rows`, of an image much higher than wide that is padded to its height.

    The padding is one colour, and its part in a scaled pixel is known from the weights: it need not be built. For
    1 x 65,535 pixels and a tower of 8 px, whose weights reach over half of a row, building it takes 19 s.
    """
    width, height = image.size
    left = (height - width) // 2
    weights = _bicubic_weights(side, height, range(left, left + width))[columns]
    scaled = np.empty((height, len(columns), 3), np.uint8)
    n_rows = STRIP_PIXELS // width
    for start in range(0, height, n_rows):
        rows = np.asarray(image.crop((0, start, width, min(start + n_rows, height))))  # (n, W, 3)
        for channel in range(3):
            sums = rows[:, :, channel].astype(np.float64) @ weights[:, 1:].T  # whole numbers below 2^53: exact
            sums += weights[:, 0] * colour[channel] + (1 << (_WEIGHT_BITS - 1))
            scaled[start : start + n_rows, :, channel] = np.floor(sums / (1 << _WEIGHT_BITS)).clip(0, 255)
    return Image.fromarray(scaled)


def _bicubic_weights(side: int, length: int, wanted: range) -> NDArray[np.float64]:
    """Pillow's weights for scaling `length` pixels to `side`, in units of 2^-22.

    Returns:
        (side, 1 + len(wanted)): the sum of the weights of all other pixels, and those of the wanted ones.

    Source: precompute_coeffs and normalize_coeffs_8bpc of Pillow's Resample.c.
    """
    scale = length / side
    table = np.zeros((side, 1 + len(wanted)))
    for index in range(side):
        centre = (index + 0.5) * scale
        pixels = np.arange(max(0, int(centre - 2 * scale + 0.5)), min(length, int(centre + 2 * scale + 0.5)))
        distance = np.abs((pixels - centre + 0.5) / scale)
        near = ((1.5 * distance - 2.5) * distance) * distance + 1
        far = (((distance - 5) * distance + 8) * distance - 4) * -0.5
        weights = np.where(distance < 1, near, np.where(distance < 2, far, 0))
        weights = weights / np.cumsum(weights)[-1] * (1 << _WEIGHT_BITS)
        weights = np.trunc(weights + np.copysign(0.5, weights))
        is_wanted = (pixels >= wanted.start) & (pixels < wanted.stop)
        table[index, 1 + pixels[is_wanted] - wanted.start] = weights[is_wanted]
        table[index, 0] = weights[~is_wanted].sum()
    return table


def resize_and_crop(image: Image.Image, side: int) -> Image.Image:
    """Scales the shorter edge to `side` (bicubic, antialiased), then cuts the centre (side, side)."""
    width, height = image.size
    new_width, new_height = (int(side * length / min(width, height)) for length in (width, height))
    top, left = (new_height - side) // 2, (new_width - side) // 2
    if new_width * new_height > _MAX_RESIZED_PIXELS:
        begin, end, first, last = source_span(range(top, top + side), height / new_height, height)
        rows = image.crop((0, first, width, last))
        rows = scale_rows(rows, width, new_width, range(left, left + side))
        return rows.resize((side, side), Image.Resampling.BICUBIC, box=(0, begin, side, end))
    resized = scale(image, (new_width, new_height))
    return resized.crop((left, top, left + side, top + side))


def normalize(squares: Sequence[Image.Image], spec: VisionSpec) -> NDArray[np.float32]:
    """(x / 255 - mean) / std per channel of RGB squares, as float32 (B, 3, S, S), C-contiguous.

    The reference rescales in float64, casts to float32 and normalizes there; 256 values a channel make that a table.
    """
    levels = (np.arange(256, dtype=np.float64) * (1 / 255)).astype(np.float32)
    mean, std = np.array(spec.image_mean, np.float32), np.array(spec.image_std, np.float32)
    tables = (levels[:, None] - mean) / std  # (256, 3)
    pixels = np.stack([np.asarray(square) for square in squares])  # (B, S, S, 3) uint8
    return np.stack([tables[:, channel][pixels[..., channel]] for channel in range(3)], axis=1)
