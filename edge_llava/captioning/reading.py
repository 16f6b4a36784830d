"""Reads an image when its turn comes, and encodes it ahead where that gains time."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edge_llava.captioning.prepared import Damaged, Prepared, Ready, Seen, Unread
from edge_llava.errors import BackendError, ImageError
from edge_llava.home.files import digest_file
from edge_llava.home.image_files.alpha import Alpha
from edge_llava.home.regular_file import sign
from edge_llava.runtime.vision.image import Image
from edge_llava.runtime.vision.image_embedding import ImageEmbedding
from edge_llava.runtime.vision.tower import wait_for

if TYPE_CHECKING:
    from edge_llava.runtime.model import LlavaModel

YOUNG_S = 60.0  # a file that was changed so recently may still grow


class Reader:
    """Reads the images of one run, each content once."""

    def __init__(self, alpha: Alpha, knows: Callable[[str], bool], *, waits_for_ends: bool) -> None:
        """
        Args:
            alpha: What becomes of transparency.
            knows: Whether there is a line for bytes of this digest.
            waits_for_ends: An image that ends early and was just changed is not complete yet, and not truncated.
        """
        self._alpha, self._knows, self._waits_for_ends = alpha, knows, waits_for_ends
        self._claimed: set[str] = set()  # sha256 of images that this run asks about

    def read(self, path: Path) -> Prepared:
        """Opens an image, unless one with the same bytes had its turn."""
        try:
            before = os.stat(path)
            sha256 = digest_file(path)
            if sha256 in self._claimed or self._knows(sha256):
                return Seen(sha256)
            image = _open(path, sha256, self._alpha)
            after = os.stat(path)
        except OSError as error:
            return Unread(f"it cannot be read: {error.strerror}.")
        if sign(before) != sign(after):
            return Unread("it changed while it was read. Run the same command again.")
        if self._waits_for_ends and isinstance(image, Ready) and image.truncated and is_young(after):
            return Unread("it is not complete yet.")
        self._claimed.add(sha256)
        return image


def is_young(status: os.stat_result) -> bool:
    """Whether a file was changed in the last minute, so that it may not be complete; its clock may be ahead of ours."""
    return abs(time.time() - status.st_mtime) < YOUNG_S


def encode(model: LlavaModel, ready: Ready, stop: threading.Event) -> Damaged | Ready:
    """Encodes an image that was opened; the model's failure is the image's."""
    if isinstance(ready.image, ImageEmbedding):
        return ready
    try:
        embedding = wait_for(model.tower.start(ready.image), stop)
        return Ready(ready.sha256, embedding, ready.truncated)
    except BackendError as error:
        return Damaged(ready.sha256, error)


def _open(path: Path, sha256: str, alpha: Alpha) -> Damaged | Ready:
    try:
        image = Image.open(path, alpha=alpha)
        return Ready(sha256, image, image.truncated)
    except ImageError as error:
        return Damaged(sha256, error)
