"""An image that was opened: what a tower can be shown, and what it is shown of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import PIL.Image

from edge_llava.bundle.vision_spec import VisionSpec
from edge_llava.home.image_files.alpha import Alpha
from edge_llava.home.image_files.opening import ImageSource, is_truncated, open_image
from edge_llava.runtime.vision.preprocess import cut_squares


@dataclass(frozen=True, eq=False)
class Image:
    """An opened image. Thread-safe.

    Attributes:
        pixels: Upright RGB; must not be changed.
        truncated: Whether its file ended early: a part of it is grey, black or white.
    """

    pixels: PIL.Image.Image
    truncated: bool = False
    _cut: tuple[VisionSpec, tuple[PIL.Image.Image, ...]] | None = field(default=None, init=False, repr=False)

    @classmethod
    def open(cls, source: ImageSource | Image, *, alpha: Alpha = "white", apply_exif: bool = True) -> Image:
        """Opens an image; one that is open already is returned as it is.

        Args:
            source: What `open_image` takes, or an image.
            alpha: What becomes of transparency: "white" or "drop".
            apply_exif: Rotate by the EXIF orientation.

        Raises:
            ImageError: If it cannot be read.
        """
        if isinstance(source, Image):
            return source
        pixels = open_image(source, alpha=alpha, apply_exif=apply_exif)
        return cls(pixels, is_truncated(pixels))

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.pixels.size

    def squares(self, spec: VisionSpec) -> tuple[PIL.Image.Image, ...]:
        """What a tower is shown of it: RGB squares of side S. They are cut once, and kept for the next call."""
        cut = self._cut
        if cut is None or cut[0] != spec:
            cut = spec, tuple(cut_squares(self.pixels, spec))
            object.__setattr__(self, "_cut", cut)
        return cut[1]
