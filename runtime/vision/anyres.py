"""LLaVA-1.6's "anyres": an image as a small whole and tiles of a larger canvas, and their rows put together again.

Pure arithmetic on sizes, PIL for the pixels, numpy for the rows. Sizes are (width, height) in pixels, as pinpoints are.

Source: LLaVA's mm_utils.py (select_best_resolution, resize_and_pad_image, process_anyres_image) and llava_arch.py
(unpad_image, prepare_inputs_labels_for_multimodal); transformers' LlavaNext for "spatial_unpad_rounded".
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edge_llava.bundle.vision_spec import VisionSpec
from edge_llava.runtime.vision.scaling import BLACK, scale

Size = tuple[int, int]


def choose_canvas(size: Size, pinpoints: Sequence[Size]) -> Size:
    """The canvas that keeps most of the image's pixels; of equals the one with least empty space, then the first."""
    width, height = size

    def rank(canvas: Size) -> tuple[int, int]:
        scale = min(canvas[0] / width, canvas[1] / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - canvas[0] * canvas[1]

    return max(pinpoints, key=rank)


def cut_tiles(image: Image.Image, spec: VisionSpec) -> list[Image.Image]:
    """Squares of side S: the whole image first, whatever its shape, then the canvas row by row."""
    side = spec.image_size
    canvas = _fit(image, choose_canvas(image.size, spec.grid_pinpoints))
    whole = scale(image, (side, side))
    places = [(x, y) for y in range(0, canvas.height, side) for x in range(0, canvas.width, side)]
    return [whole, *(canvas.crop((x, y, x + side, y + side)) for x, y in places)]


def lay_out(squares: Sequence[Image.Image], size: Size, spec: VisionSpec) -> Image.Image:
    """One image of all squares: the whole, and to its right the canvas that the tiles were cut from."""
    if len(squares) == 1:
        return squares[0]
    side, (width, height) = spec.image_size, choose_canvas(size, spec.grid_pinpoints)
    sheet = Image.new("RGB", (side + width, max(side, height)), BLACK)
    sheet.paste(squares[0], (0, 0))
    for index, tile in enumerate(squares[1:]):
        row, column = divmod(index, width // side)
        sheet.paste(tile, (side * (1 + column), side * row))
    return sheet


def count_tokens(size: Size, spec: VisionSpec, visual_tokens: int | None = None) -> int:
    """Context positions that an image takes; `visual_tokens` where it is reduced to so many."""
    if visual_tokens is not None:
        return visual_tokens
    if spec.aspect != "anyres":
        return spec.n_features
    columns, rows = choose_canvas(size, spec.grid_pinpoints)
    n_tiles = (columns // spec.image_size) * (rows // spec.image_size)
    if spec.merge == "flat":
        return (1 + n_tiles) * spec.n_features
    n_rows, n_columns = kept_patches(size, spec)
    return spec.n_features + n_rows * (n_columns + (1 if spec.has_newline else 0))


def kept_patches(size: Size, spec: VisionSpec) -> tuple[int, int]:
    """Rows and columns of patches: of the canvas without its border, or of the one square."""
    if spec.aspect != "anyres":
        return spec.grid_side, spec.grid_side
    rows, columns = _kept_ranges(size, spec)
    return len(rows), len(columns)


def merge_tiles(
    tiles: NDArray[np.float32], newline: NDArray[np.float32] | None, size: Size, spec: VisionSpec
) -> NDArray[np.float32]:
    """Puts the rows of one image together: (count_tokens(size, spec), E), C-contiguous.

    `tiles` (T, P, E) are the whole image's rows, then each tile's; `newline` (E,) ends each row of patches.
    """
    n_embd = tiles.shape[-1]
    if spec.merge == "flat":  # one square always is
        return np.ascontiguousarray(tiles.reshape(-1, n_embd))
    width, height = choose_canvas(size, spec.grid_pinpoints)
    side, n_across, n_down = spec.grid_side, width // spec.image_size, height // spec.image_size
    patches = tiles[1:].reshape(n_down, n_across, side, side, n_embd).swapaxes(1, 2)
    patches = patches.reshape(n_down * side, n_across * side, n_embd)
    rows, columns = _kept_ranges(size, spec)
    patches = patches[rows.start : rows.stop, columns.start : columns.stop]
    if newline is not None:
        ends = np.broadcast_to(newline, (len(patches), 1, n_embd))
        patches = np.concatenate([patches, ends], axis=1)
    return np.concatenate([tiles[0], patches.reshape(-1, n_embd)])


def _fit(image: Image.Image, canvas: Size) -> Image.Image:
    """Scales the image to fit, keeping its shape, and centres it on black."""
    (width, height), (canvas_width, canvas_height) = image.size, canvas
    factor = min(canvas_width / width, canvas_height / height)
    new = min(math.ceil(width * factor), canvas_width), min(math.ceil(height * factor), canvas_height)
    fitted = Image.new("RGB", canvas, BLACK)
    fitted.paste(scale(image, new), ((canvas_width - new[0]) // 2, (canvas_height - new[1]) // 2))
    return fitted


def _kept_ranges(size: Size, spec: VisionSpec) -> tuple[range, range]:
    """Rows and columns of the canvas's patches that show the image.

    Where an odd number is left over, one row or column more is kept than the image fills.
    """
    (width, height), canvas = size, choose_canvas(size, spec.grid_pinpoints)
    columns, rows = (length // spec.image_size * spec.grid_side for length in canvas)  # whole patches of each tile
    top = left = 0
    if spec.merge.startswith("spatial_unpad"):  # the image touches two opposite edges: one of both is zero
        top = max(0, (rows - _shrink(height, columns / width, spec)) // 2)
        left = max(0, (columns - _shrink(width, rows / height, spec)) // 2)
    return range(top, rows - top), range(left, columns - left)


def _shrink(length: int, factor: float, spec: VisionSpec) -> int:
    # transformers rounds 27.99999999 up to 28, LLaVA itself cuts it down to 27
    return int(round(length * factor, 7) if spec.merge == "spatial_unpad_rounded" else length * factor)
