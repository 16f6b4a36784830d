"""LLaVA's "anyres": an image as a small whole and tiles of a larger canvas, and their rows put together again.

Pure arithmetic on sizes, PIL for the pixels, numpy for the rows. Sizes are (width, height) in pixels, as pinpoints are.

Source: LLaVA's mm_utils.py (select_best_resolution, resize_and_pad_image, process_anyres_image) and llava_arch.py
(unpad_image, prepare_inputs_labels_for_multimodal), LLaVA-NeXT's for "anyres_max"; transformers' LlavaNext and
LlavaOnevision for "spatial_unpad_rounded".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edge_llava.bundle.vision_spec import VisionSpec, count_squares
from edge_llava.runtime.vision.scaling import BLACK, scale

Size = tuple[int, int]
_LEAST_SHRINK = 1.1  # of "anyres_max": a canvas a little above its limit stays as it is


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
    canvas = _fit(image, choose_canvas(image.size, spec.canvases))
    whole = scale(image, (side, side))
    places = [(x, y) for y in range(0, canvas.height, side) for x in range(0, canvas.width, side)]
    return [whole, *(canvas.crop((x, y, x + side, y + side)) for x, y in places)]


def lay_out(squares: Sequence[Image.Image], size: Size, spec: VisionSpec) -> Image.Image:
    """One image of all squares: the whole, and to its right the canvas that the tiles were cut from."""
    if len(squares) == 1:
        return squares[0]
    side, (width, height) = spec.image_size, choose_canvas(size, spec.canvases)
    sheet = Image.new("RGB", (side + width, max(side, height)), BLACK)
    sheet.paste(squares[0], (0, 0))
    for index, tile in enumerate(squares[1:]):
        row, column = divmod(index, width // side)
        sheet.paste(tile, (side * (1 + column), side * row))
    return sheet


def count_tiles(size: Size, spec: VisionSpec) -> int:
    """Squares that an image is encoded as, the whole image among them."""
    return count_squares(choose_canvas(size, spec.canvases), spec.image_size) if spec.aspect == "anyres" else 1


def count_tokens(size: Size, spec: VisionSpec, visual_tokens: int | None = None) -> int:
    """Context positions that an image takes; with `visual_tokens` where it is reduced to so many patches."""
    if visual_tokens is not None:
        return visual_tokens + int(spec.has_newline)
    if spec.merge == "flat":
        return count_tiles(size, spec) * spec.n_features + int(spec.has_newline)
    return _count_merged(*kept_patches(size, spec), spec)


def count_range(spec: VisionSpec) -> tuple[int, int]:
    """Context positions of an image that fills the smallest canvas, and of the image that takes most."""
    if spec.aspect != "anyres" or spec.merge == "flat":
        counts = [count_tokens(canvas, spec) for canvas in spec.canvases or [(1, 1)]]
        return min(counts), max(counts)
    least, most = list[int](), 0
    for canvas in spec.canvases:
        columns, rows = (length // spec.image_size * spec.grid_side for length in canvas)
        least.append(_count_merged(*_limit(rows, columns, spec), spec))
        # a border makes a canvas smaller than its limit, and what is shown of it larger than what is scaled down
        seen = [(n, columns) for n in range(1, rows + 1)] + [(rows, n) for n in range(1, columns + 1)]
        most = max(most, *(_count_merged(*_limit(*kept, spec), spec) for kept in seen))
    return min(least), most


def tile_limits(size: Size, spec: VisionSpec) -> list[int]:
    """Limits of `max_tiles` that leave an image fewer squares than it has, in ascending order."""
    counts = {count_squares(canvas, spec.image_size) for canvas in spec.canvases}
    return sorted(count for count in counts if count < count_tiles(size, spec))


def find_limit(sizes: Sequence[Size], spec: VisionSpec, n_positions: int) -> int | None:
    """The most squares, below what these images have, with which they take so many positions together; None: none."""
    for limit in sorted({limit for size in sizes for limit in tile_limits(size, spec)}, reverse=True):
        limited = replace(spec, max_tiles=limit)
        if sum(count_tokens(size, limited) for size in sizes) <= n_positions:
            return max(count_tiles(size, limited) for size in sizes)
    return None


def kept_patches(size: Size, spec: VisionSpec) -> tuple[int, int]:
    """Rows and columns of patches: of the canvas without its border, scaled down to its limit; or of the one square."""
    if spec.aspect != "anyres":
        return spec.grid_side, spec.grid_side
    rows, columns = _kept_ranges(size, spec)
    return _limit(len(rows), len(columns), spec)


def merge_tiles(
    tiles: NDArray[np.float32], newline: NDArray[np.float32] | None, size: Size, spec: VisionSpec
) -> NDArray[np.float32]:
    """Puts the rows of one image together: (count_tokens(size, spec), E), C-contiguous.

    `tiles` (T, P, E) are the whole image's rows, then each tile's; `newline` (E,) ends each row of patches, or all.
    """
    n_embd = tiles.shape[-1]
    if spec.merge == "flat":  # one square always is
        rows = tiles.reshape(-1, n_embd)
        return np.ascontiguousarray(rows) if newline is None else np.concatenate([rows, newline[None]])
    patches = _shown_patches(tiles[1:], size, spec)
    n_rows, n_columns = kept_patches(size, spec)
    if (n_rows, n_columns) != patches.shape[:2]:
        patches = scale_patches(patches, n_rows, n_columns)
    if newline is not None:
        ends = np.broadcast_to(newline, (len(patches), 1, n_embd))
        patches = np.concatenate([patches, ends], axis=1)
    return np.concatenate([tiles[0], patches.reshape(-1, n_embd)])


def scale_patches(patches: NDArray[np.float32], n_rows: int, n_columns: int) -> NDArray[np.float32]:
    """Scales rows and columns of patches (h, w, E) down to (n_rows, n_columns, E): bilinear, without antialiasing.

    Source: torch.nn.functional.interpolate(mode="bilinear", align_corners=False).
    """
    first, second, share = _bilinear(patches.shape[0], n_rows)
    share = share[:, None, None]
    patches = patches[first] * (1 - share) + patches[second] * share
    first, second, share = _bilinear(patches.shape[1], n_columns)
    share = share[:, None]
    return patches[:, first] * (1 - share) + patches[:, second] * share


def _bilinear(n: int, n_wanted: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """For each wanted place the two next to it, and how much of the second it takes; in float32, as torch does."""
    centre = np.float32(n / n_wanted) * (np.arange(n_wanted, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5)
    centre = np.maximum(centre, np.float32(0))
    first = np.minimum(centre.astype(np.intp), n - 1)
    return first, np.minimum(first + 1, n - 1), (centre - first).astype(np.float32)


def _shown_patches(tiles: NDArray[np.float32], size: Size, spec: VisionSpec) -> NDArray[np.float32]:
    """The rows of the tiles (T - 1, P, E) where they are on the canvas, without its border: (h, w, E)."""
    width, height = choose_canvas(size, spec.canvases)
    side, n_across, n_down = spec.grid_side, width // spec.image_size, height // spec.image_size
    patches = tiles.reshape(n_down, n_across, side, side, -1).swapaxes(1, 2)
    patches = patches.reshape(n_down * side, n_across * side, -1)
    rows, columns = _kept_ranges(size, spec)
    return patches[rows.start : rows.stop, columns.start : columns.stop]


def _limit(n_rows: int, n_columns: int, spec: VisionSpec) -> Size:
    """Rows and columns of patches after the bilinear limit."""
    if spec.merge_limit is None:
        return n_rows, n_columns
    shrink = math.sqrt(n_rows * n_columns / (spec.merge_limit * spec.grid_side**2))
    if shrink <= _LEAST_SHRINK:
        return n_rows, n_columns
    return max(1, int(n_rows // shrink)), max(1, int(n_columns // shrink))


def _count_merged(n_rows: int, n_columns: int, spec: VisionSpec) -> int:
    return spec.n_features + n_rows * (n_columns + int(spec.has_newline))


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
    (width, height), canvas = size, choose_canvas(size, spec.canvases)
    columns, rows = (length // spec.image_size * spec.grid_side for length in canvas)  # whole patches of each tile
    top = left = 0
    if spec.merge.startswith("spatial_unpad"):  # the image touches two opposite edges: one of both is zero
        top = max(0, (rows - _shrink(height, columns / width, spec)) // 2)
        left = max(0, (columns - _shrink(width, rows / height, spec)) // 2)
    return range(top, rows - top), range(left, columns - left)


def _shrink(length: int, factor: float, spec: VisionSpec) -> int:
    # transformers rounds 27.99999999 up to 28, LLaVA itself cuts it down to 27
    return int(round(length * factor, 7) if spec.merge == "spatial_unpad_rounded" else length * factor)
