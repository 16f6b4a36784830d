"""Image to pixel values, equal (max difference 0.0) to transformers' slow CLIP, Llava and LlavaNext image processors.

Source: LLaVA's mm_utils.process_images and transformers' CLIPImageProcessor (the torchvision "fast" one differs).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edge_llava.bundle.vision_spec import VisionSpec
from edge_llava.runtime.vision.anyres import cut_tiles
from edge_llava.runtime.vision.scaling import STRIP_PIXELS, scale, scale_strips

# Above this many pixels neither the resized image of "crop" nor the padded one of "pad" is built whole.
# A crop of 1 x 4000 px would otherwise build 336 x 1,344,000: only the part that it keeps is computed, from the same
# source rows; rounding may differ by one level. A pad of 1000 x 30,000 would build 30,000 x 30,000: it is made in
# strips, with the same result.
_MAX_RESIZED_PIXELS = 1 << 26
# Above this many, the square is not built either: of 48 megapixels it would take 256 MB, and strips of it can be scaled
# on several threads; the result is the same.
_MAX_SQUARE_PIXELS = STRIP_PIXELS
# Above this many, strips of a padded image are not scaled whole: a strip of 1 x 50,000 would take 14 seconds.
_MAX_PADDED_PIXELS = 1 << 28
_NARROW = 4  # an image so many times narrower than what is scaled of its padded rows is computed without padding
_WEIGHT_BITS = 22  # of Pillow's fixed-point weights. Source: PRECISION_BITS of its Resample.c


def pixel_values(image: Image.Image, spec: VisionSpec) -> NDArray[np.float32]:
    """Turns an opened image into the tower's input.

    Args:
        image: RGB, any size.
        spec: Decides size, aspect handling and normalization.

    Returns:
        float32 (B, 3, S, S), C-contiguous; B is 1 for "pad" and "crop", and the whole with its tiles for "anyres".
    """
    return normalize(cut_squares(image, spec), spec)


def cut_squares(image: Image.Image, spec: VisionSpec) -> list[Image.Image]:
    """What the tower will see of an image, before normalization: RGB squares of side S."""
    if spec.aspect == "anyres":
        return cut_tiles(image, spec)
    if spec.aspect == "pad":
        return [pad_and_resize(image, pad_colour(spec), spec.image_size)]
    return [resize_and_crop(image, spec.image_size)]


def pad_colour(spec: VisionSpec) -> tuple[int, int, int]:
    """The RGB colour around a padded image: the mean, truncated to 8 bits; (122, 116, 104) for CLIP."""
    red, green, blue = (int(mean * 255) for mean in spec.image_mean)
    return red, green, blue


def pad_to_square(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """Centres the image on a square of side max(width, height)."""
    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    square = Image.new("RGB", (side, side), colour)
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def pad_and_resize(image: Image.Image, colour: tuple[int, int, int], side: int) -> Image.Image:
    """Pads to a square and scales it to (side, side); equal to doing one after the other, in bounded memory and time.

    Where the longest side is above 16,384 pixels, some may differ by one level.
    """
    width, height = image.size
    longest = max(width, height)
    at_once = min(_MAX_SQUARE_PIXELS, _MAX_RESIZED_PIXELS)
    if longest * longest <= at_once:
        return resize_and_crop(pad_to_square(image, colour), side)
    # PIL scales rows first, each on its own, then columns: rows can be padded and scaled strip by strip.
    left, top, scale = (longest - width) // 2, (longest - height) // 2, longest / side
    first, last, span = 0, side, (0.0, float(longest), 0, longest)
    if longest * longest > _MAX_PADDED_PIXELS:  # of a row, only what the image reaches
        first = max(0, math.floor(left / scale) - 3)
        last = min(side, math.ceil((left + width) / scale) + 3)
        span = _source_span(first, last - first, scale, longest)
    x0, x1, from_x, to_x = span
    narrow = Image.new("RGB", (side, longest), colour)
    if longest * longest > _MAX_PADDED_PIXELS and width * _NARROW < to_x - from_x:
        narrow.paste(_scale_padded_rows(image, colour, side, range(first, last)), (first, top))
        return narrow.resize((side, side), Image.Resampling.BICUBIC)

    def scale_strip(rows: range) -> Image.Image:
        strip = image
        if (width, left) != (to_x, from_x):
            strip = Image.new("RGB", (to_x - from_x, len(rows)), colour)
            strip.paste(image.crop((0, rows.start, width, rows.stop)), (left - from_x, 0))
            rows = range(len(rows))
        box = (x0, rows.start, x1, rows.stop)
        return strip.resize((last - first, len(rows)), Image.Resampling.BICUBIC, box=box)

    for rows, strip in scale_strips(scale_strip, height, at_once // (to_x - from_x)):
        narrow.paste(strip, (first, top + rows.start))
    return narrow.resize((side, side), Image.Resampling.BICUBIC)


def _scale_padded_rows(image: Image.Image, colour: tuple[int, int, int], side: int, span: range) -> Image.Image:
    """Rows of an image much higher than wide, padded to its height and scaled to `side`: columns `span` of them, RGB.

    The padding is one colour, and its part in a scaled pixel is known from the weights: it need not be built. For
    1 x 65,535 pixels and a tower of 8 px, whose weights reach over half of a row, building it takes 19 s.
    """
    width, height = image.size
    weights = _bicubic_weights(side, height, range((height - width) // 2, (height - width) // 2 + width))[span]
    scaled = np.empty((height, len(span), 3), np.uint8)
    n_rows = max(1, (1 << 20) // width)
    for start in range(0, height, n_rows):
        end = min(start + n_rows, height)
        rows = np.asarray(image.crop((0, start, width, end)))  # (n, W, 3)
        for channel in range(3):
            sums = rows[:, :, channel].astype(np.float64) @ weights[:, 1:].T  # whole numbers below 2^53: exact
            sums += weights[:, 0] * colour[channel] + (1 << (_WEIGHT_BITS - 1))
            scaled[start:end, :, channel] = np.floor(sums / (1 << _WEIGHT_BITS)).clip(0, 255)
    return Image.fromarray(scaled)


def _bicubic_weights(side: int, length: int, wanted: range) -> NDArray[np.float64]:
    """Pillow's weights for scaling `length` pixels to `side`, in units of 2^-22.

    Args:
        side, length: Pixels after and before.
        wanted: The pixels whose weights are needed one by one.

    Returns:
        (side, 1 + len(wanted)): the sum of all others' weights, and the weights.

    Source: precompute_coeffs and normalize_coeffs_8bpc of Pillow's Resample.c.
    """
    scale = length / side
    table = np.zeros((side, 1 + len(wanted)))
    for index in range(side):
        centre = (index + 0.5) * scale
        first, last = max(0, int(centre - 2 * scale + 0.5)), min(length, int(centre + 2 * scale + 0.5))
        distance = np.abs((np.arange(first, last) - centre + 0.5) / scale)
        near = ((1.5 * distance - 2.5) * distance) * distance + 1
        far = (((distance - 5) * distance + 8) * distance - 4) * -0.5
        weights = np.where(distance < 1, near, np.where(distance < 2, far, 0))
        weights = weights / np.cumsum(weights)[-1] * (1 << _WEIGHT_BITS)
        whole = np.trunc(weights + np.copysign(0.5, weights))
        own = whole[max(0, wanted.start - first) : max(0, wanted.stop - first)]
        at = 1 + max(0, first - wanted.start)
        table[index, at : at + len(own)] = own
        table[index, 0] = whole.sum() - own.sum()
    return table


def resize_and_crop(image: Image.Image, side: int) -> Image.Image:
    """Scales the shorter edge to `side` (bicubic, antialiased), then cuts the centre (side, side)."""
    width, height = image.size
    if width <= height:
        new_width, new_height = side, int(side * height / width)
    else:
        new_width, new_height = int(side * width / height), side
    top, left = (new_height - side) // 2, (new_width - side) // 2
    if new_width * new_height > _MAX_RESIZED_PIXELS:
        x0, x1, from_x, to_x = _source_span(left, side, width / new_width, width)
        y0, y1, from_y, to_y = _source_span(top, side, height / new_height, height)
        part = image.crop((from_x, from_y, to_x, to_y))
        # rows, then columns, as PIL does for the whole; given both at once it chooses the order by the part's shape
        narrow = part.resize((side, part.height), Image.Resampling.BICUBIC, box=(x0, 0, x1, part.height))
        return narrow.resize((side, side), Image.Resampling.BICUBIC, box=(0, y0, side, y1))
    resized = scale(image, (new_width, new_height))
    return resized.crop((left, top, left + side, top + side))


def _source_span(start: int, side: int, scale: float, length: int) -> tuple[float, float, int, int]:
    """What `side` resized pixels from `start` on are made of, along one axis.

    Returns:
        Where they begin and end, counted from the third value; first and last source pixel that bicubic reads for them.
    """
    begin, end = start * scale, (start + side) * scale
    reach = math.ceil(2 * max(1, scale)) + 1
    first, last = max(0, math.floor(begin) - reach), min(length, math.ceil(end) + reach)
    return begin - first, end - first, first, last


def normalize(squares: Sequence[Image.Image], spec: VisionSpec) -> NDArray[np.float32]:
    """(x / 255 - mean) / std per channel of RGB squares, as float32 (B, 3, S, S), C-contiguous.

    The reference rescales in float64, casts to float32 and normalizes there; 256 values a channel make that a table.
    """
    levels = (np.arange(256, dtype=np.float64) * (1 / 255)).astype(np.float32)
    mean, std = np.array(spec.image_mean, np.float32), np.array(spec.image_std, np.float32)
    tables = (levels[:, None] - mean) / std  # (256, 3)
    pixels = np.stack([np.asarray(square) for square in squares])  # (B, S, S, 3) uint8
    return np.stack([tables[:, channel][pixels[..., channel]] for channel in range(3)], axis=1)
