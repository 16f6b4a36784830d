"""Pillow's bicubic scaling with exactly its results, on several threads where an image is large.

Pillow scales rows first, each on its own, and then columns: strips of rows can be scaled at the same time.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from PIL import Image

from edge_llava.device.threads import usable_threads
from edge_llava.runtime.lifetime.work_thread import WorkThread

STRIP_PIXELS = 1 << 20  # smaller images are scaled whole; a strip has about so many
BLACK = (0, 0, 0)
_MAX_THREADS = 4  # more wait for memory
# Newer versions of Pillow scale columns first where that is cheaper, with other rounding. Up to this ratio, of height
# to width and of how much the width shrinks less than the height, none does.
_ROWS_FIRST = 4, 3


def scale(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The same as `image.resize(size, BICUBIC)`, of RGB."""
    width, height = image.size
    if width * height > STRIP_PIXELS and _scales_rows_first(image.size, size):
        image = scale_rows(image, width, size[0], range(size[0]))
    return image.resize(size, Image.Resampling.BICUBIC)


def _scales_rows_first(before: tuple[int, int], after: tuple[int, int]) -> bool:
    (width, height), (new_width, new_height), (most, of) = before, after, _ROWS_FIRST
    shrinks = new_width <= width and new_height <= height
    return shrinks and height * of <= width * most and new_width * height * of <= width * new_height * most


def scale_rows(
    image: Image.Image,
    length: int,
    new_length: int,
    columns: range,
    left: int = 0,
    colour: tuple[int, int, int] = BLACK,
) -> Image.Image:
    """Rows scaled from `length` to `new_length` pixels, of which only `columns` are computed: RGB (columns, height).

    A row is the image's own from its pixel `left` on, and `colour` around that.
    """
    begin, end, first, last = source_span(columns, length / new_length, length)
    scaled = Image.new("RGB", (len(columns), image.height))

    def scale_strip(rows: range) -> None:
        strip, box = image, (begin, rows.start, end, rows.stop)
        if (first, last) != (left, left + image.width):
            strip, box = Image.new("RGB", (last - first, len(rows)), colour), (begin, 0, end, len(rows))
            strip.paste(image.crop((0, rows.start, image.width, rows.stop)), (left - first, 0))
        strip = strip.resize((len(columns), len(rows)), Image.Resampling.BICUBIC, box=box)
        scaled.paste(strip, (0, rows.start))

    in_strips(scale_strip, image.height, STRIP_PIXELS // (last - first))
    return scaled


def source_span(part: range, scale: float, length: int) -> tuple[float, float, int, int]:
    """What a part of the resized pixels is made of, along one axis.

    Returns:
        Where it begins and ends, counted from the third value; first and last source pixel that bicubic reads for it.
    """
    begin, end = part.start * scale, part.stop * scale
    reach = math.ceil(2 * max(1, scale)) + 1
    first, last = max(0, math.floor(begin) - reach), min(length, math.ceil(end) + reach)
    return begin - first, end - first, first, last


def in_strips(work: Callable[[range], None], height: int, n_rows: int) -> None:
    """Calls `work` for strips of `n_rows` rows, at least one, on several threads: on this one, too."""
    step = max(1, n_rows)
    strips = [range(start, min(start + step, height)) for start in range(0, height, step)]
    to_do = iter(strips)

    def run() -> None:
        for rows in to_do:  # each is taken by one thread
            work(rows)

    n_threads = min(_MAX_THREADS, usable_threads(None), len(strips))
    helpers = [WorkThread("edge-llava-scaling") for _ in range(n_threads - 1)]
    futures = [helper.submit(run) for helper in helpers]
    try:
        run()
        for future in futures:
            future.result()
    finally:
        strips.clear()  # where one fails, the others stop
        for helper in helpers:
            helper.close(wait=False)
