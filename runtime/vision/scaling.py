"""Pillow's bicubic scaling with exactly its results, on several threads where an image is large.

Pillow scales rows first, each on its own, and then columns: strips of rows can be scaled at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from PIL import Image

from edge_llava.device.threads import usable_threads
from edge_llava.runtime.lifetime.work_thread import WorkThread

STRIP_PIXELS = 1 << 20  # smaller images are scaled whole; a strip has about so many
_MAX_THREADS = 4  # more wait for memory
# Newer versions of Pillow scale columns first where that is cheaper, with other rounding. Up to this ratio, of height
# to width and of how much the width shrinks less than the height, none does.
_ROWS_FIRST = 4, 3


def scale(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The same as `image.resize(size, BICUBIC)`.

    Args:
        image: RGB.
        size: Width and height in pixels.
    """
    width, height = image.size
    if width * height <= STRIP_PIXELS or not _scales_rows_first(image.size, size):
        return image.resize(size, Image.Resampling.BICUBIC)

    def scale_strip(rows: range) -> Image.Image:
        box = (0, rows.start, width, rows.stop)
        return image.resize((size[0], len(rows)), Image.Resampling.BICUBIC, box=box)

    narrow = Image.new("RGB", (size[0], height))
    for rows, strip in scale_strips(scale_strip, height, STRIP_PIXELS // width):
        narrow.paste(strip, (0, rows.start))
    return narrow.resize(size, Image.Resampling.BICUBIC)


def _scales_rows_first(before: tuple[int, int], after: tuple[int, int]) -> bool:
    (width, height), (new_width, new_height), (most, of) = before, after, _ROWS_FIRST
    shrinks = new_width <= width and new_height <= height
    return shrinks and height * of <= width * most and new_width * height * of <= width * new_height * most


def scale_strips(
    scale_strip: Callable[[range], Image.Image], height: int, n_rows: int
) -> Iterator[tuple[range, Image.Image]]:
    """Calls a function for strips of rows, on several threads.

    Args:
        scale_strip: Scales the rows it is given.
        height: Rows of the image.
        n_rows: Rows of a strip; at least one is taken.
    """
    step = max(1, n_rows)
    strips = [range(start, min(start + step, height)) for start in range(0, height, step)]
    return zip(strips, _spread(scale_strip, strips), strict=True)


def _spread(work: Callable[[range], Image.Image], items: Sequence[range]) -> list[Image.Image]:
    """What `work` returns for each item; this thread works, too, and what it raises anywhere is raised here."""
    to_do, results = list(range(len(items))), dict[int, Image.Image]()

    def run() -> None:
        while to_do:
            try:
                index = to_do.pop()
            except IndexError:  # another thread took the last one
                return
            results[index] = work(items[index])

    helpers = [WorkThread("edge-llava-scaling") for _ in range(min(_MAX_THREADS, usable_threads(None), len(items)) - 1)]
    futures = [helper.submit(run) for helper in helpers]
    try:
        run()
        for future in futures:
            future.result()
    finally:
        to_do.clear()
        for helper in helpers:
            helper.close(wait=False)
    return [results[index] for index in range(len(items))]
