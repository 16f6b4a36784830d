"""In which forms a bundle's images are shown to its tower: alone in their conversation, or one of several.

A form is a `VisionSpec`: it decides what the tower is shown, the image's key, and its positions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from edge_llava.bundle.vision_spec import VisionSpec, find_tile_fault
from edge_llava.errors import BundleError
from edge_llava.runtime.options import EngineOptions
from edge_llava.runtime.vision.visual_tokens import check_visual_tokens


@dataclass(frozen=True)
class ImageForms:
    """How an image is shown.

    Attributes:
        alone: The only image of its conversation.
        among_several: One of several. Often the same.
    """

    alone: VisionSpec
    among_several: VisionSpec

    def choose(self, n_images: int) -> VisionSpec:
        """The form of each image of a conversation with so many."""
        return self.among_several if n_images > 1 else self.alone


def image_forms(spec: VisionSpec, options: EngineOptions) -> ImageForms:
    """The forms of a bundle's images under these options.

    Raises:
        BundleError: If its images cannot be limited to `max_tiles`, or reduced to `visual_tokens`.
    """
    check_visual_tokens(options.visual_tokens, spec)
    alone = limit_tiles(spec, options.max_tiles)
    if spec.several_images == "as_one":
        return ImageForms(alone, alone)
    square = replace(spec, aspect="pad", grid_pinpoints=(), merge="flat", merge_limit=None, max_tiles=None)
    return ImageForms(alone, square)


def limit_tiles(spec: VisionSpec, max_tiles: int | None) -> VisionSpec:
    """The spec with a user's limit as well as its own: the smaller one counts.

    Raises:
        BundleError: If no canvas is left, or images are not cut into tiles.
    """
    if fault := find_tile_fault(spec.aspect, spec.grid_pinpoints, spec.image_size, max_tiles):
        raise BundleError(f"this bundle {fault}")
    if max_tiles is None or (spec.max_tiles is not None and spec.max_tiles <= max_tiles):
        return spec
    limited = replace(spec, max_tiles=max_tiles)
    return spec if limited.canvases == spec.canvases else limited  # the same rows have the same key
