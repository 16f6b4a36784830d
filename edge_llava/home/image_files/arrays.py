"""Arrays as images."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from edge_llava.errors import ImageError

_KINDS = "uint8 of 0 to 255, float of 0 to 1, or bool; (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"


def image_of_array(array: np.ndarray[Any, Any]) -> Image.Image:
    """An image of mode L, RGB or RGBA.

    Args:
        array: Grey (H, W) or (H, W, 1), RGB (H, W, 3) or RGBA (H, W, 4); uint8, float of 0 to 1, or bool.

    Raises:
        ImageError: If it is of another type or shape, or holds other numbers.
    """
    given = f"{array.dtype} {array.shape}"
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or 0 in array.shape:
        hint = ""
        if len(array.shape) == 3 and array.shape[0] in (1, 3, 4):
            hint = " Its channels come first: use array.transpose(1, 2, 0)."
        elif array.ndim == 4:
            hint = " Give the images of a batch one by one."
        raise ImageError(f"an array must be {_KINDS}, not {given}.{hint}")
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif np.issubdtype(array.dtype, np.floating):
        low, high = float(array.min()), float(array.max())  # NaN if there is one
        if not (low >= 0 and high <= 1):
            raise ImageError(f"a float array must hold 0 to 1; this one, {given}, holds {low:g} to {high:g}.")
        array = np.rint(array.astype(np.float32) * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ImageError(f"an array must be {_KINDS}, not {given}.")
    return Image.fromarray(np.ascontiguousarray(array))
