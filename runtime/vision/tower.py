"""The tower of a bundle: opens images for it, knows their keys and their places, and encodes each of them once."""

from __future__ import annotations

import hashlib
import json
import threading
from concurrent.futures import Future, wait
from dataclasses import asdict
from functools import partial
from typing import TypeVar
from weakref import WeakValueDictionary

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from edge_llava.bundle.bundle import Bundle
from edge_llava.errors import ImageError
from edge_llava.home.image_files.opening import ImageSource
from edge_llava.runtime.lifetime.cancel import Cancelled
from edge_llava.runtime.options import EngineOptions
from edge_llava.runtime.runs import ImageRun
from edge_llava.runtime.vision.anyres import count_tokens, lay_out
from edge_llava.runtime.vision.image import Image
from edge_llava.runtime.vision.image_embedding import ImageEmbedding
from edge_llava.runtime.vision.image_encoder import ImageEncoder, tower_digest
from edge_llava.runtime.vision.lazy_encoder import LazyEncoder
from edge_llava.runtime.vision.shared_encoding import SharedEncoding
from edge_llava.runtime.vision.visual_tokens import check_visual_tokens

_LOOK_S = 0.05
_REDUCTION = "token reduction 1"  # another number when `reduce_tokens` gives other rows
_Result = TypeVar("_Result")


class Tower:
    """Tower and projector of a bundle, with the options they run under. Thread-safe.

    The engines are opened for the first image that is encoded, on a thread of their own, which encodes one image after
    another. Requests for the same rows share one encoding, and rows that are still in use are not computed again.

    Attributes:
        n_encoded: Images that were encoded.
    """

    def __init__(self, bundle: Bundle, options: EngineOptions) -> None:
        """
        Args:
            bundle: Its digests are not checked here.
            options: Device settings; those of the decoder have no effect here.

        Raises:
            BundleError: If images cannot be reduced to `options.visual_tokens`.
        """
        check_visual_tokens(options.visual_tokens, bundle.manifest.vision)
        self.n_encoded = 0
        self._bundle, self._manifest, self._spec = bundle, bundle.manifest, bundle.manifest.vision
        self._visual_tokens, self._alpha = options.visual_tokens, options.alpha
        self._encoder = LazyEncoder(partial(ImageEncoder, bundle, options), stays_open=not options.low_memory)
        self._changing = threading.Lock()
        self._encodings: dict[str, SharedEncoding] = {}
        self._rows = WeakValueDictionary[str, ImageEmbedding]()
        self._early: dict[str, Future[ImageEmbedding]] = {}

    @property
    def is_open(self) -> bool:
        """Whether the next image need not wait until the engines are opened, which takes one core."""
        return self._encoder.is_open

    @property
    def on_gpu(self) -> bool:
        """Whether the tower runs on a GPU; False until it was opened."""
        return self._encoder.on_gpu

    @property
    def open_s(self) -> float:
        """Seconds that opening the engines took so far."""
        return self._encoder.open_s

    def open(self, source: ImageSource | Image, *, apply_exif: bool = True) -> Image:
        """Opens an image with the tower's options, and prepares what the tower is shown of it.

        Raises:
            ImageError: If it cannot be read.
        """
        image = Image.open(source, alpha=self._alpha, apply_exif=apply_exif)
        image.squares(self._spec)
        return image

    def n_tokens(self, size: tuple[int, int]) -> int:
        """Context positions that an image of (width, height) takes."""
        return count_tokens(size, self._spec, self._visual_tokens)

    def key(self, image: Image) -> str:
        """sha256 (hex) of all that decides an image's rows: what the tower is shown, and all that is done to it."""
        digest = hashlib.sha256(json.dumps([image.size, asdict(self._spec)], sort_keys=True).encode())
        for square in image.squares(self._spec):
            digest.update(square.tobytes())
        for part in (tower_digest(self._manifest), self._manifest.files["projector"].sha256):
            digest.update(bytes.fromhex(part))
        if self._visual_tokens is not None:
            digest.update(f"{_REDUCTION} {self._visual_tokens}".encode())
        return digest.hexdigest()

    def check(self, embedding: ImageEmbedding) -> ImageEmbedding:
        """Returns the embedding if it was made by this tower and projector, with as many visual tokens.

        Raises:
            ImageError: If it was not; says which part differs.
        """
        own_parts = {
            "vision tower": (embedding.vision_sha256, tower_digest(self._manifest)),
            "projector": (embedding.projector_sha256, self._manifest.files["projector"].sha256),
        }
        for part, (digest, own) in own_parts.items():
            if digest != own:
                raise ImageError(
                    f"this image embedding was made by another {part} ({digest[:12]}...) "
                    f"than that of {self._bundle.name} ({own[:12]}...). "
                    "Make it again: edge-llava embed IMAGE -o FILE.safetensors"
                )
        wanted = (self.n_tokens(embedding.image_size), self._manifest.language.n_embd)
        if embedding.data.shape != wanted:
            raise ImageError(
                f"this image embedding has shape {embedding.data.shape}, expected {wanted}. Rows differ where the "
                "image and the question were given different --visual-tokens: use the same for both."
            )
        return embedding

    def place(self, source: ImageSource | ImageEmbedding | Image, *, salt: str = "") -> ImageRun:
        """An image, or an embedding, as a part of a conversation; nothing is encoded.

        Args:
            source: What to place.
            salt: The same image with another salt counts as another image; its rows are computed again.

        Raises:
            ImageError: If the image cannot be read or the embedding belongs to another bundle.
        """
        if isinstance(source, ImageEmbedding):
            return ImageRun.of_embedding(self.check(source))
        image = self.open(source)
        key = self.key(image)
        identity = hashlib.sha256(f"{key} {salt}".encode()).hexdigest() if salt else key
        return ImageRun(key, identity, self.n_tokens(image.size), image, truncated=image.truncated)

    def start(
        self,
        image: Image,
        key: str | None = None,
        cancel: threading.Event | None = None,
        *,
        identity: str | None = None,
    ) -> Future[ImageEmbedding]:
        """Begins to encode an image, after those that were begun before, unless its rows are there or on their way.

        Args:
            image: What to encode.
            key: The image's key, where it is known already.
            cancel: Set it from another thread to leave; cancelling the future does the same. An encoding stops when
                everyone who waits for it has left.
            identity: Encodings and rows are shared among requests of one identity, as of an `ImageRun`; None: the key.

        Returns:
            A future of the caller's own; see `wait_for`.
        """
        key = key or self.key(image)
        identity = identity or key
        future = self._join(image, key, identity, cancel)
        if (early := self._early.pop(identity, None)) is not None:
            early.cancel()  # it does not wait any more
        return future

    def _join(self, image: Image, key: str, identity: str, cancel: threading.Event | None) -> Future[ImageEmbedding]:
        with self._changing:
            if (rows := self._rows.get(identity)) is not None:
                known = Future[ImageEmbedding]()
                known.set_result(rows)
                return known
            encoding = self._encodings.get(identity)
            if encoding is not None and (future := encoding.join(cancel)) is not None:
                return future
            encoding = SharedEncoding()
            first = encoding.join(cancel)
            assert first is not None
            work = self._encoder.submit(lambda encoder: encoder.encode(image, key, encoding), encoding)
            self._encodings[identity] = encoding
        work.add_done_callback(partial(self._finish, identity, encoding))
        return first

    def start_early(self, image: Image) -> None:
        """Begins to encode an image that will be asked for; its rows are kept for the first `start` of its key."""
        key = self.key(image)
        self._early[key] = self.start(image, key)

    def start_features(self, image: Image, cancel: threading.Event | None = None) -> Future[NDArray[np.float32]]:
        """As `start`, for what the tower sees: float32 (T, P, D), one square, or the whole and its tiles."""
        return self._encoder.submit(lambda encoder: encoder.patch_features(image, cancel), cancel)

    def show_input(self, source: ImageSource | Image) -> PIL.Image.Image:
        """What the tower is shown of an image, as RGB; of tiles, the whole and to its right the canvas.

        Raises:
            ImageError: If the image cannot be read.
        """
        image = self.open(source)
        return lay_out(image.squares(self._spec), image.size, self._spec)

    def close(self) -> None:
        """Frees the engines after the image that is being encoded, and drops the others; safe to call twice."""
        for early in self._early.values():
            early.cancel()
        self._encoder.close()

    def _finish(self, identity: str, encoding: SharedEncoding, work: Future[ImageEmbedding]) -> None:
        with self._changing:
            if self._encodings.get(identity) is encoding:
                del self._encodings[identity]
            if not work.cancelled() and work.exception() is None:
                self._rows[identity] = work.result()
                self.n_encoded += 1
        encoding.finish(work)


def wait_for(work: Future[_Result], cancel: threading.Event | None = None) -> _Result:
    """What a piece of the tower's work gave.

    Raises:
        Cancelled: If `cancel` was set before it was done.
        EdgeLlavaError: What it raised.
    """
    while not wait([work], None if cancel is None else _LOOK_S).done:
        if cancel is not None and cancel.is_set():
            raise Cancelled
    return work.result()
