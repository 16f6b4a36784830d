"""Picture to pixel values, equal (max difference 0.0) to transformers' slow CLIP, Llava and LlavaNext image processors.

Source: LLaVA's mm_utils.process_images and transformers' CLIPImageProcessor (the torchvision "fast" one differs).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edge_llava.runtime.tiles import cut_tiles
from edge_llava.vision_spec import VisionSpec

# Above this many pixels neither the resized picture of "crop" nor the padded one of "pad" is built whole.
# A crop of 1 x 4000 px would otherwise build 336 x 1,344,000: only the part that it keeps is computed, from the same
# source rows; rounding may differ by one level. A pad of 1000 x 30,000 would build 30,000 x 30,000: it is made in
# strips, with the same result.
_MAX_RESIZED_PIXELS = 1 << 26
# Above this many, strips of a padded picture are not scaled whole: a strip of 1 x 50,000 would take 14 seconds.
_MAX_PADDED_PIXELS = 1 << 28


def pixel_values(picture: Image.Image, spec: VisionSpec) -> NDArray[np.float32]:
    """Turns an opened picture into the tower's input.

    Args:
        picture: RGB, any size.
        spec: Decides size, aspect handling and normalization.

    Returns:
        float32 (B, 3, S, S), C-contiguous; B is 1 for "pad" and "crop", and the whole with its tiles for "anyres".
    """
    return np.stack([normalize(square, spec) for square in cut_squares(picture, spec)])


def cut_squares(picture: Image.Image, spec: VisionSpec) -> list[Image.Image]:
    """What the tower will see of a picture, before normalization: RGB squares of side S."""
    if spec.aspect == "anyres":
        return cut_tiles(picture, spec)
    if spec.aspect == "pad":
        return [pad_and_resize(picture, pad_colour(spec), spec.image_size)]
    return [resize_and_crop(picture, spec.image_size)]


def pad_colour(spec: VisionSpec) -> tuple[int, int, int]:
    """The RGB colour around a padded picture: the mean, truncated to 8 bits; (122, 116, 104) for CLIP."""
    red, green, blue = (int(mean * 255) for mean in spec.image_mean)
    return red, green, blue


def pad_to_square(picture: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """Centres the picture on a square of side max(width, height)."""
    width, height = picture.size
    if width == height:
        return picture
    side = max(width, height)
    square = Image.new("RGB", (side, side), colour)
    square.paste(picture, ((side - width) // 2, (side - height) // 2))
    return square


def pad_and_resize(picture: Image.Image, colour: tuple[int, int, int], side: int) -> Image.Image:
    """Pads to a square and scales it to (side, side); equal to doing one after the other, in bounded memory and time.

    Where the longest side is above 16,384 pixels, some may differ by one level.
    """
    width, height = picture.size
    longest = max(width, height)
    if longest * longest <= _MAX_RESIZED_PIXELS:
        return resize_and_crop(pad_to_square(picture, colour), side)
    # PIL scales rows first, each on its own, then columns: rows can be padded and scaled strip by strip.
    left, top, scale = (longest - width) // 2, (longest - height) // 2, longest / side
    first, last, span = 0, side, (0.0, float(longest), 0, longest)
    if longest * longest > _MAX_PADDED_PIXELS:  # of a row, only what the picture reaches
        first = max(0, math.floor(left / scale) - 3)
        last = min(side, math.ceil((left + width) / scale) + 3)
        span = _source_span(first, last - first, scale, longest)
    x0, x1, from_x, to_x = span
    narrow = Image.new("RGB", (side, longest), colour)
    n_rows = max(1, _MAX_RESIZED_PIXELS // (4 * (to_x - from_x)))
    for start in range(0, height, n_rows):
        end = min(start + n_rows, height)
        strip = Image.new("RGB", (to_x - from_x, end - start), colour)
        strip.paste(picture.crop((0, start, width, end)), (left - from_x, 0))
        scaled = strip.resize((last - first, end - start), Image.Resampling.BICUBIC, box=(x0, 0, x1, end - start))
        narrow.paste(scaled, (first, top + start))
    return narrow.resize((side, side), Image.Resampling.BICUBIC)


def resize_and_crop(picture: Image.Image, side: int) -> Image.Image:
    """Scales the shorter edge to `side` (bicubic, antialiased), then cuts the centre (side, side)."""
    width, height = picture.size
    if width <= height:
        new_width, new_height = side, int(side * height / width)
    else:
        new_width, new_height = int(side * width / height), side
    top, left = (new_height - side) // 2, (new_width - side) // 2
    if new_width * new_height > _MAX_RESIZED_PIXELS:
        x0, x1, from_x, to_x = _source_span(left, side, width / new_width, width)
        y0, y1, from_y, to_y = _source_span(top, side, height / new_height, height)
        part = picture.crop((from_x, from_y, to_x, to_y))
        # rows, then columns, as PIL does for the whole; given both at once it chooses the order by the part's shape
        narrow = part.resize((side, part.height), Image.Resampling.BICUBIC, box=(x0, 0, x1, part.height))
        return narrow.resize((side, side), Image.Resampling.BICUBIC, box=(0, y0, side, y1))
    resized = picture.resize((new_width, new_height), Image.Resampling.BICUBIC)
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


def normalize(square: Image.Image, spec: VisionSpec) -> NDArray[np.float32]:
    """(x / 255 - mean) / std per channel, as float32 (3, S, S).

    The reference rescales in float64, casts to float32 and normalizes there; 256 values a channel make that a table.
    """
    levels = (np.arange(256, dtype=np.float64) * (1 / 255)).astype(np.float32)
    mean, std = np.array(spec.image_mean, np.float32), np.array(spec.image_std, np.float32)
    tables = (levels[:, None] - mean) / std  # (256, 3)
    pixels = np.asarray(square)  # (S, S, 3) uint8
    return np.stack([tables[:, channel][pixels[:, :, channel]] for channel in range(3)])
