"""The images that commands are given: files, stdin, and those of the demo."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edge_llava.demo import NAME, find_image
from edge_llava.errors import ImageError

if TYPE_CHECKING:
    from edge_llava.home.image_files.alpha import Alpha
    from edge_llava.runtime.vision.image import Image


def open_image(name: str, alpha: Alpha) -> Image:
    """Opens an image by what the user typed: a path, "-" for stdin, or "demo:1" to "demo:4".

    Raises:
        ImageError: If it cannot be read.
    """
    from edge_llava.runtime.vision.image import Image

    source = sys.stdin.buffer.read() if name == "-" else find_image(name) or name
    if source == name and name.startswith(f"{NAME}:") and not os.path.exists(name):
        raise ImageError(f"there is no image {name}. The demo's images are {NAME}:1 to {NAME}:4.")
    return Image.open(source, alpha=alpha)


def choose_bundle(bundle: str | None, images: Sequence[str]) -> str | None:
    """The bundle to ask about these images: the demo where the user has none and asks about the demo's own images."""
    from edge_llava.home.directories import default_bundle, list_bundles

    shows_demo = bool(images) and all(find_image(image) is not None for image in images)
    if bundle is not None or not shows_demo:
        return bundle
    return None if default_bundle() is not None or list_bundles() else NAME
