"""Memory for large photographs that costs the system a few page faults instead of thousands."""

from __future__ import annotations

import mmap
from contextlib import suppress

from PIL import Image, ImageFile

_MIN_PIXELS = 1 << 20


def use_huge_pages(image: ImageFile.ImageFile) -> None:
    """Has a large JPEG decoded into huge pages, where Linux has them. Call it before `load()`; the pixels are the same.

    Of the time to decode 12 megapixels into Pillow's own memory, a third went into 12,000 page faults.
    """
    if not hasattr(mmap, "MADV_HUGEPAGE") or image.mode != "RGB" or image.format not in ("JPEG", "MPO"):
        return
    if not image.tile or image.width * image.height < _MIN_PIXELS:
        return
    n_bytes = 4 * image.width * image.height
    memory = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # zeros, as Pillow's own
    with suppress(OSError):  # a kernel without them: ordinary pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    # what `Image.frombuffer` does for modes of four bytes; Pillow keeps RGB in four bytes, too
    image.im = Image.core.map_buffer(memory, image.size, "raw", 0, ("RGB", 0, 1))  # type: ignore[attr-defined]
