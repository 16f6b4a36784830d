"""The way of a picture through a bundle: pixel values, patch features, embedding rows. Needs no language model."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edge_llava.bundle.bundle import Bundle
from edge_llava.errors import BackendError
from edge_llava.runtime.lifetime.cancel import Cancelled
from edge_llava.runtime.options import VisionProvider
from edge_llava.runtime.vision.anyres import kept_patches, merge_tiles
from edge_llava.runtime.vision.encoder import VisionEncoder
from edge_llava.runtime.vision.file_check import check_vision_file
from edge_llava.runtime.vision.image_embedding import ImageEmbedding
from edge_llava.runtime.vision.image_key import image_key, tower_digest
from edge_llava.runtime.vision.preprocess import pixel_values
from edge_llava.runtime.vision.projector import Projector
from edge_llava.runtime.vision.visual_tokens import check_visual_tokens, reduce_tokens

_TILES_AT_ONCE = 4  # of "anyres": more gain little and take memory


class PictureEncoder:
    """Vision encoder and projector of a bundle. Thread-safe.

    Attributes:
        on_gpu: Whether the tower runs on a GPU.
    """

    def __init__(
        self,
        bundle: Bundle,
        n_threads: int,
        provider: VisionProvider = "auto",
        *,
        spinning: bool = True,
        mapped: bool = False,
        visual_tokens: int | None = None,
    ) -> None:
        """
        Args:
            bundle: Its digests are not checked here.
            n_threads: CPU threads.
            provider: Where the tower runs.
            spinning: Whether the tower's threads wait awake.
            mapped: Whether the tower's weights stay in their file.
            visual_tokens: Rows that a picture is reduced to; None: all are kept.

        Raises:
            BundleError: If a file is not what the manifest says, or pictures cannot be reduced so.
            BackendError: If an engine cannot start.
            MissingExtra: If ONNX Runtime is not installed.
        """
        manifest = bundle.manifest
        self._manifest, self._spec, self._visual_tokens = manifest, manifest.vision, visual_tokens
        check_visual_tokens(visual_tokens, manifest.vision)
        check_vision_file(bundle)
        with ExitStack() as opened:  # an engine that fails to start closes the one before it
            self._vision = VisionEncoder(
                bundle.file("vision"), manifest.vision, n_threads, provider, spinning=spinning, mapped=mapped
            )
            opened.callback(self._vision.close)
            self.on_gpu = self._vision.provider == "cuda"
            self._projector = Projector(
                bundle.file("projector"), manifest.projector, n_threads, has_newline=manifest.vision.has_newline
            )
            opened.pop_all()

    def __enter__(self) -> PictureEncoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def patch_features(self, picture: Image.Image, cancel: threading.Event | None = None) -> NDArray[np.float32]:
        """What the tower sees in an upright RGB picture: float32 (T, P, D); one square, or the whole and its tiles.

        Raises:
            Cancelled: If `cancel` was set meanwhile.
        """
        pixels = pixel_values(picture, self._spec)
        batches = [pixels[start : start + _TILES_AT_ONCE] for start in range(0, len(pixels), _TILES_AT_ONCE)]
        return np.concatenate([self._vision(batch, cancel) for batch in batches])

    def encode(
        self, picture: Image.Image, cancel: threading.Event | None = None, key: str | None = None
    ) -> ImageEmbedding:
        """Encodes an upright RGB picture.

        Args:
            picture: What `open_picture` gives.
            cancel: Set it from another thread to stop.
            key: The picture's `image_key`, where it is known already.

        Raises:
            Cancelled: If `cancel` was set meanwhile.
            BackendError: If an engine fails or gives impossible numbers.
        """
        started = time.perf_counter()
        features = self._kept_features(picture, cancel)
        encoded = time.perf_counter()
        if cancel is not None and cancel.is_set():
            raise Cancelled
        tiles = np.stack([self._projector(tile) for tile in features])
        rows = merge_tiles(tiles, self._projector.newline, picture.size, self._spec)
        projected = time.perf_counter()
        if not np.isfinite(rows).all():
            raise BackendError(
                "the tower gave infinite or undefined numbers. Convert with --vision fp32, or check the weights."
            )
        return ImageEmbedding(
            data=rows,
            key=key or image_key(picture, self._manifest, self._visual_tokens),
            grid=kept_patches(picture.size, self._spec),
            image_size=picture.size,
            vision_sha256=tower_digest(self._manifest),
            projector_sha256=self._manifest.files["projector"].sha256,
            vision_s=encoded - started,
            projector_s=projected - encoded,
        ).vouch()

    def _kept_features(self, picture: Image.Image, cancel: threading.Event | None) -> NDArray[np.float32]:
        """As `patch_features`, or fewer rows of the one square."""
        if self._visual_tokens is None:
            return self.patch_features(picture, cancel)
        patches = self._vision.rank(pixel_values(picture, self._spec), cancel)
        return reduce_tokens(patches, self._visual_tokens)[None]

    def close(self) -> None:
        """Frees the engines; safe to call twice."""
        self._projector.close()
        self._vision.close()
