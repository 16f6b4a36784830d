"""The way of an image through a bundle: pixel values, patch features, embedding rows. Needs no language model."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edge_llava.bundle.bundle import Bundle
from edge_llava.bundle.manifest import Manifest
from edge_llava.bundle.vision_file import check_vision_file
from edge_llava.bundle.vision_spec import VisionSpec
from edge_llava.device.cpu_times import recent_cpu_times
from edge_llava.device.thread_count import ThreadCount
from edge_llava.device.threads import usable_threads
from edge_llava.errors import BackendError
from edge_llava.home.progress import ProgressCallback, ProgressEvent, silent
from edge_llava.runtime.lifetime.cancel import Cancelled
from edge_llava.runtime.options import EngineOptions
from edge_llava.runtime.vision.anyres import kept_patches, merge_tiles
from edge_llava.runtime.vision.device_graph import projector_device
from edge_llava.runtime.vision.encoder import VisionEncoder
from edge_llava.runtime.vision.forms import image_forms
from edge_llava.runtime.vision.image import Image
from edge_llava.runtime.vision.image_embedding import ImageEmbedding
from edge_llava.runtime.vision.preprocess import normalize
from edge_llava.runtime.vision.projector import Projector
from edge_llava.runtime.vision.visual_tokens import reduce_tokens

# Of "anyres". On a CPU, four at a time are no quicker than two, and take twice the memory (780 MB with a SigLIP).
# One at a time is 4 % slower.
_TILES_AT_ONCE, _TILES_IN_LOW_MEMORY, _TILES_ON_GPU = 2, 1, 4


class ImageEncoder:
    """Vision encoder and projector of a bundle. Thread-safe.

    Attributes:
        provider, on_gpu: As of the `VisionEncoder`.
    """

    def __init__(self, bundle: Bundle, options: EngineOptions) -> None:
        """The bundle's digests are not checked here.

        Raises:
            BundleError: If a file is not what the manifest says, or images cannot be reduced to `visual_tokens` or
                limited to `max_tiles`.
            BackendError: If an engine cannot start.
            MissingExtra: If ONNX Runtime is not installed.
        """
        manifest = bundle.manifest
        self._manifest, self._visual_tokens = manifest, options.visual_tokens
        self._alone = image_forms(manifest.vision, options).alone
        check_vision_file(bundle)
        n_threads, has_newline = usable_threads(options.n_vision_threads), manifest.vision.has_newline
        adapts = options.decoder.may_adapt_threads
        self._threads = ThreadCount(n_threads, adapts=adapts, before=recent_cpu_times())
        self._projector = Projector(
            bundle.file("projector"),
            manifest.projector,
            self._threads,
            has_newline=has_newline,
            device=projector_device(options.decoder),
        )
        self._vision = VisionEncoder(bundle.file("vision"), manifest.vision, options)
        self.provider, self.on_gpu = self._vision.provider, self._vision.on_gpu
        self._n_at_once = tiles_at_once(options, on_gpu=self.on_gpu)

    def patch_features(self, image: Image, cancel: threading.Event | None = None) -> NDArray[np.float32]:
        """What the tower sees in an image: float32 (T, P, D); one square, or the whole and its tiles.

        Raises:
            Cancelled: If `cancel` was set before it was done.
        """
        return np.concatenate([self._vision(pixels, cancel) for pixels in self._batches(image, self._alone)])

    def encode(
        self,
        image: Image,
        key: str,
        cancel: threading.Event | None = None,
        form: VisionSpec | None = None,
        progress: ProgressCallback = silent,
    ) -> ImageEmbedding:
        """Encodes an image: its squares batch by batch, of which only the embedding's rows are kept.

        Args:
            image: The image.
            key: As of `Tower.key`.
            cancel: Stops it when set.
            form: How the image is shown; None: alone.
            progress: Called with the squares that are done, where there are several.

        Raises:
            Cancelled: If `cancel` was set before it was done.
            BackendError: If an engine fails or gives impossible numbers.
        """
        form = form or self._alone
        n_squares, tiles, vision_s = len(image.squares(form)), list[NDArray[np.float32]](), 0.0
        started = time.perf_counter()
        self._threads.update()  # so that the projector knows what others do while the tower runs
        for pixels in self._batches(image, form):
            begun = time.perf_counter()
            if self._visual_tokens is None:
                features = self._vision(pixels, cancel)
            else:
                features = reduce_tokens(self._vision.rank(pixels, cancel), self._visual_tokens)[None]
            vision_s += time.perf_counter() - begun
            if cancel is not None and cancel.is_set():
                raise Cancelled
            tiles += [self._projector(tile) for tile in features]
            if n_squares > 1:
                progress(ProgressEvent(f"image in {n_squares} tiles", len(tiles), n_squares, "items"))
        rows = merge_tiles(np.stack(tiles), self._projector.newline if form.has_newline else None, image.size, form)
        projected = time.perf_counter()
        if not np.isfinite(rows).all():
            raise BackendError(
                "the tower gave infinite or undefined numbers. Convert with --vision fp32, or check the weights."
            )
        return ImageEmbedding(
            data=rows,
            key=key,
            grid=kept_patches(image.size, form),
            image_size=image.size,
            vision_sha256=tower_digest(self._manifest),
            projector_sha256=self._manifest.files["projector"].sha256,
            vision_s=vision_s,
            projector_s=projected - started - vision_s,
        ).mark_computed()

    def close(self) -> None:
        """Frees the engines; safe to call twice."""
        self._projector.close()
        self._vision.close()

    def _batches(self, image: Image, form: VisionSpec) -> Iterator[NDArray[np.float32]]:
        squares = image.squares(form)
        for start in range(0, len(squares), self._n_at_once):
            yield normalize(squares[start : start + self._n_at_once], form)


def tiles_at_once(options: EngineOptions, *, on_gpu: bool) -> int:
    """Squares of an image that a tower computes together."""
    if options.low_memory:
        return _TILES_IN_LOW_MEMORY
    return _TILES_ON_GPU if on_gpu else _TILES_AT_ONCE


def tower_digest(manifest: Manifest) -> str:
    """sha256 (hex) of the vision tower: of vision.onnx, and of the weights where they are kept in their own file.

    The graph alone does not distinguish towers of one shape.
    """
    files = manifest.files
    if "vision_data" not in files:
        return files["vision"].sha256
    return hashlib.sha256(bytes.fromhex(files["vision"].sha256 + files["vision_data"].sha256)).hexdigest()
