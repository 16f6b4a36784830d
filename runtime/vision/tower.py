"""The tower of a bundle: opens images for it, knows their keys and their places, and encodes each of them once."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import asdict
from functools import partial
from typing import TypeVar
from weakref import WeakValueDictionary

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from edge_llava.bundle.bundle import Bundle
from edge_llava.bundle.vision_spec import VisionSpec
from edge_llava.errors import ImageError
from edge_llava.home.image_files.opening import ImageSource
from edge_llava.home.progress import ProgressCallback, silent
from edge_llava.runtime.lifetime.cancel import Cancelled
from edge_llava.runtime.lifetime.work_thread import WorkThread
from edge_llava.runtime.options import EngineOptions
from edge_llava.runtime.runs import ImageRun
from edge_llava.runtime.vision.anyres import count_tokens, lay_out
from edge_llava.runtime.vision.forms import image_forms
from edge_llava.runtime.vision.image import Image
from edge_llava.runtime.vision.image_embedding import ImageEmbedding
from edge_llava.runtime.vision.image_encoder import ImageEncoder, tower_digest
from edge_llava.runtime.vision.onnx_runtime import check_provider
from edge_llava.runtime.vision.shared_work import SharedWork

_LOOK_S = 0.05
_REDUCTION = "token reduction 2"  # another number when `reduce_tokens` gives other rows
_Result = TypeVar("_Result")


class Tower:
    """Tower and projector of a bundle, with the options they run under. Thread-safe.

    The engines are opened for the first image that is encoded, on a thread of their own, which encodes one image after
    another. Requests for the same rows share one encoding, and rows that are still in use are not computed again.

    Attributes:
        n_encoded: Images that were encoded.
        open_s: Seconds that opening the engines took so far.
        on_gpu: Whether the tower runs on a GPU; False until it was opened.
        provider: Where the tower runs, as `VisionEncoder.provider`; None until it was opened.
        forms: In which forms images are shown.
        progress: Called on the tower's thread with the squares of an image that are done, where it makes several; may
            be replaced.
    """

    def __init__(self, bundle: Bundle, options: EngineOptions) -> None:
        """The bundle's digests are not checked here.

        Raises:
            BundleError: If images cannot be reduced to `options.visual_tokens`, or limited to `options.max_tiles`.
            BackendError: If the installed ONNX Runtime does not have `options.vision_provider`.
        """
        self.forms = image_forms(bundle.manifest.vision, options)
        check_provider(options.vision_provider)  # at once, also where all images were encoded before
        self.progress: ProgressCallback = silent
        self.n_encoded, self.open_s, self.on_gpu = 0, 0.0, False
        self.provider: str | None = None
        self._bundle, self._options = bundle, options
        self._digests = {
            "vision tower": tower_digest(bundle.manifest),
            "projector": bundle.manifest.files["projector"].sha256,
        }
        self._opener: Callable[[], ImageEncoder] = partial(ImageEncoder, bundle, options)
        self._thread = WorkThread("edge-llava-tower")
        self._encoder: ImageEncoder | None = None  # the thread's own
        self._changing = threading.Lock()
        self._encodings: dict[str, SharedWork[ImageEmbedding]] = {}
        self._rows = WeakValueDictionary[str, ImageEmbedding]()
        self._early: dict[str, Future[ImageEmbedding]] = {}

    @property
    def is_open(self) -> bool:
        """Whether the next image need not wait until the engines are opened, which takes one core."""
        return self._encoder is not None

    def open(self, source: ImageSource | Image, *, apply_exif: bool = True, n_images: int = 1) -> Image:
        """Opens an image with the tower's options, and prepares what the tower is shown of it.

        Args:
            source: What `Image.open` takes.
            apply_exif: Rotate by the EXIF orientation.
            n_images: Images of its conversation, on which its form depends.

        Raises:
            ImageError: If it cannot be read.
        """
        image = Image.open(source, alpha=self._options.alpha, apply_exif=apply_exif)
        image.squares(self.forms.choose(n_images))
        return image

    def n_tokens(self, size: tuple[int, int], form: VisionSpec | None = None) -> int:
        """Context positions that an image of (width, height) takes; without a form, alone."""
        return count_tokens(size, form or self.forms.alone, self._options.visual_tokens)

    def key(self, image: Image, form: VisionSpec | None = None) -> str:
        """sha256 (hex) of all that decides an image's rows: what the tower is shown, and all that is done to it."""
        form = form or self.forms.alone
        digest = hashlib.sha256(json.dumps([image.size, asdict(form)], sort_keys=True).encode())
        for square in image.squares(form):
            digest.update(square.tobytes())
        for own in self._digests.values():
            digest.update(bytes.fromhex(own))
        if self._options.visual_tokens is not None:
            digest.update(f"{_REDUCTION} {self._options.visual_tokens}".encode())
        return digest.hexdigest()

    def check(self, embedding: ImageEmbedding, n_images: int = 1) -> ImageEmbedding:
        """Returns the embedding if it was made by this tower and projector, in the form that it is needed in.

        Args:
            embedding: From a file, or of another model.
            n_images: Images of its conversation.

        Raises:
            ImageError: If it was not; says which part differs.
        """
        digests = embedding.vision_sha256, embedding.projector_sha256
        for (part, own), digest in zip(self._digests.items(), digests, strict=True):
            if digest != own:
                raise ImageError(
                    f"this image embedding was made by another {part} ({digest[:12]}...) "
                    f"than that of {self._bundle.name} ({own[:12]}...). "
                    "Make it again: edge-llava embed IMAGE -o FILE.safetensors"
                )
        forms, size = self.forms, embedding.image_size
        n_alone, n_several = (self.n_tokens(size, form) for form in (forms.alone, forms.among_several))
        wanted, other = (n_several, n_alone) if n_images > 1 else (n_alone, n_several)
        if wanted != embedding.n_tokens == other:
            made, option = ("alone", "with") if n_images > 1 else ("one of several", "without")
            raise ImageError(
                f"this image embedding has the {other} positions that {self._bundle.name} takes for an image {made}, "
                f"expected {wanted}. Give the image itself, or embed it {option} --among-several."
            )
        shape = (wanted, self._bundle.manifest.language.n_embd)
        if embedding.data.shape != shape:
            option = "--max-tiles" if self.forms.alone.aspect == "anyres" else "--visual-tokens"
            raise ImageError(
                f"this image embedding has shape {embedding.data.shape}, expected {shape}. Rows differ where the "
                f"image and the question were given different {option}: use the same for both."
            )
        return embedding

    def place(
        self,
        source: ImageSource | ImageEmbedding | Image,
        *,
        salt: str = "",
        n_images: int = 1,
        may_change: bool = False,
    ) -> ImageRun:
        """An image, or an embedding, as a part of a conversation; nothing is encoded.

        Args:
            source: The image.
            salt: The same image with another salt counts as another image; its rows are computed again.
            n_images: Images of the conversation, on which its form depends.
            may_change: Whether more may come: the image is kept where its form would be another one then.

        Raises:
            ImageError: If the image cannot be read or the embedding belongs to another bundle.
        """
        form = self.forms.choose(n_images)
        if isinstance(source, ImageEmbedding):
            return ImageRun.of_embedding(self.check(source, n_images), form)
        image = self.open(source, n_images=n_images)
        key = self.key(image, form)
        identity = hashlib.sha256(f"{key} {salt}".encode()).hexdigest() if salt else key
        return ImageRun(
            key,
            identity,
            self.n_tokens(image.size, form),
            form,
            image,
            truncated=image.truncated,
            may_change=may_change and form != self.forms.among_several,
        )

    def place_among_several(self, run: ImageRun) -> ImageRun:
        """An image that was placed before, in the form that it has among several.

        Raises:
            ImageError: If only its rows are there, which are those of another form.
        """
        if run.form == self.forms.among_several:
            return run
        if run.image is not None:
            return self.place(run.image, n_images=2)
        assert run.embedding is not None  # one of both always is
        return ImageRun.of_embedding(self.check(run.embedding, 2), self.forms.among_several)

    def start(
        self, image: Image, key: str | None = None, identity: str | None = None, form: VisionSpec | None = None
    ) -> Future[ImageEmbedding]:
        """Begins to encode an image, after those that were begun before, unless its rows are there or on their way.

        Args:
            key: The image's key, where it is known already.
            identity: Encodings and rows are shared among requests of one identity, as of an `ImageRun`; None: the key.
            form: How the image is shown; None: alone.

        Returns:
            A future of the caller's own. An encoding stops when everyone who waits for it has cancelled theirs.
        """
        form = form or self.forms.alone
        key = key or self.key(image, form)
        identity = identity or key
        future = self._join(image, key, identity, form)
        if (early := self._early.pop(identity, None)) is not None:
            early.cancel()  # it does not wait any more
        return future

    def _join(self, image: Image, key: str, identity: str, form: VisionSpec) -> Future[ImageEmbedding]:
        with self._changing:
            if (rows := self._rows.get(identity)) is not None:
                known = Future[ImageEmbedding]()
                known.set_result(rows)
                return known
            encoding = self._encodings.get(identity)
            if encoding is not None and (future := encoding.join()) is not None:
                return future
            encoding = SharedWork[ImageEmbedding]()
            work = self._submit(encoding, lambda encoder: encoder.encode(image, key, encoding, form, self.progress))
            self._encodings[identity] = encoding
        work.add_done_callback(partial(self._finish, identity, encoding))
        return encoding.first

    def start_early(self, image: Image, form: VisionSpec | None = None) -> None:
        """Begins to encode an image that will be asked for; its rows are kept for the first `start` of its key."""
        key = self.key(image, form)
        self._early[key] = self.start(image, key, form=form)

    def start_features(self, image: Image) -> Future[NDArray[np.float32]]:
        """As `start`, for what the tower sees: float32 (T, P, D), one square, or the whole and its tiles."""
        shared = SharedWork[NDArray[np.float32]]()
        work = self._submit(shared, lambda encoder: encoder.patch_features(image, shared))
        work.add_done_callback(shared.finish)
        return shared.first

    def show_input(self, source: ImageSource | Image) -> PIL.Image.Image:
        """What the tower is shown of an image, as RGB; of tiles, the whole and to its right the canvas."""
        image = self.open(source)
        return lay_out(image.squares(self.forms.alone), image.size, self.forms.alone)

    def close(self) -> None:
        """Frees the engines after the image that is being encoded, and drops the others; safe to call twice."""
        for early in self._early.values():
            early.cancel()
        self._thread.close()
        self._release()

    def _submit(self, shared: SharedWork[_Result], use: Callable[[ImageEncoder], _Result]) -> Future[_Result]:
        def work() -> _Result:
            if shared.is_set():  # nothing is opened for it
                raise Cancelled
            try:
                return use(self._encoder or self._open())
            finally:
                if self._options.low_memory:
                    self._release()

        return self._thread.submit(work)

    def _open(self) -> ImageEncoder:
        started = time.perf_counter()
        self._encoder = self._opener()
        self.on_gpu, self.provider = self._encoder.on_gpu, self._encoder.provider
        self.open_s += time.perf_counter() - started
        return self._encoder

    def _release(self) -> None:
        if self._encoder is not None:
            self._encoder.close()
            self._encoder = None

    def _finish(self, identity: str, encoding: SharedWork[ImageEmbedding], work: Future[ImageEmbedding]) -> None:
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
        Cancelled: If `cancel` was set before it was done, which cancels the future.
        EdgeLlavaError: What it raised.
    """
    while not wait([work], None if cancel is None else _LOOK_S).done:
        if cancel is not None and cancel.is_set():
            work.cancel()
            raise Cancelled
    return work.result()
