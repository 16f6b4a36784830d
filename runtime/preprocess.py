"""Picture to pixel values, equal (max difference 0.0) to transformers' slow CLIPImageProcessor and LlavaImageProcessor.

Source: LLaVA's mm_utils.process_images and transformers' CLIPImageProcessor (the torchvision "fast" one differs).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edge_llava.errors import BundleError
from edge_llava.manifest import VisionSpec

# Above this many pixels the resized picture is not built whole, only the part that the crop keeps (1 x 4000 px would
# otherwise become 336 x 1,344,000). The part is computed from the same source rows; rounding may differ by one level.
_MAX_RESIZED_PIXELS = 1 << 26


def pixel_values(picture: Image.Image, spec: VisionSpec) -> NDArray[np.float32]:
    """Turns an opened picture into the tower's input.

    Args:
        picture: RGB, any size.
        spec: Decides size, aspect handling and normalization.

    Returns:
        float32 (B, 3, S, S), C-contiguous; B is 1 for "pad" and "crop".

    Raises:
        BundleError: If the aspect handling is not implemented.
    """
    if spec.aspect == "pad":
        picture = pad_to_square(picture, pad_colour(spec))
    elif spec.aspect != "crop":
        raise BundleError(f"this version cannot prepare pictures for {spec.aspect!r} bundles. Upgrade edge-llava.")
    square = resize_and_crop(picture, spec.image_size)
    return normalize(square, spec)[None]


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


def resize_and_crop(picture: Image.Image, side: int) -> Image.Image:
    """Scales the shorter edge to `side` (bicubic, antialiased), then cuts the centre (side, side)."""
    width, height = picture.size
    if width <= height:
        new_width, new_height = side, int(side * height / width)
    else:
        new_width, new_height = int(side * width / height), side
    top, left = (new_height - side) // 2, (new_width - side) // 2
    if new_width * new_height > _MAX_RESIZED_PIXELS:
        scale_x, scale_y = width / new_width, height / new_height
        box = (left * scale_x, top * scale_y, (left + side) * scale_x, (top + side) * scale_y)
        return picture.resize((side, side), Image.Resampling.BICUBIC, box=box)
    resized = picture.resize((new_width, new_height), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + side, top + side))


def normalize(square: Image.Image, spec: VisionSpec) -> NDArray[np.float32]:
    """(x / 255 - mean) / std per channel, as float32 (3, S, S).

    The reference rescales in float64, casts to float32 and normalizes there; 256 values a channel make that a table.
    """
    levels = (np.arange(256, dtype=np.float64) * (1 / 255)).astype(np.float32)
    mean, std = np.array(spec.image_mean, np.float32), np.array(spec.image_std, np.float32)
    tables = (levels[:, None] - mean) / std  # (256, 3)
    pixels = np.asarray(square)  # (S, S, 3) uint8
    return np.stack([tables[:, channel][pixels[:, :, channel]] for channel in range(3)])
