"""LlavaModel: opens a bundle, owns the engines, makes image embeddings and sessions."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from types import TracebackType
from typing import TypeVar

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from edge_llava.bundle.bundle import Bundle
from edge_llava.bundle.templates import find_template
from edge_llava.home.directories import cache_directory, find_bundle
from edge_llava.home.progress import ProgressCallback, silent
from edge_llava.runtime.dialogue.past_turns import OnFull
from edge_llava.runtime.engine.turn_lock import TurnLock
from edge_llava.runtime.kv.disk_cache import PrefixStore
from edge_llava.runtime.kv.prefix_cache import PrefixCache, picture_mark
from edge_llava.runtime.language.single_decoder import Decoder
from edge_llava.runtime.lifetime.cancel import Cancelled, StopFlag
from edge_llava.runtime.lifetime.gate import Gate
from edge_llava.runtime.options import EngineOptions, SamplingOptions, tuned_options
from edge_llava.runtime.runs import ImageRun
from edge_llava.runtime.session import Session
from edge_llava.runtime.vision.image import Image
from edge_llava.runtime.vision.image_embedding import ImageEmbedding
from edge_llava.runtime.vision.images.opening import ImageSource
from edge_llava.runtime.vision.tower import Tower, wait_for

_Result = TypeVar("_Result")


class LlavaModel:
    """A bundle with its engines running. May be used from several threads: one answer at a time, the rest in order.

    Attributes:
        bundle, manifest: What was opened.
        decoder: The language model.
        prefixes: What it has computed before.
        gate: Says which threads use the engines, and frees them.
        visual_tokens: Of its options: tokens that a picture is reduced to; None: all are kept.
        alpha: Of its options: what becomes of transparency.
    """

    def __init__(
        self,
        bundle: Bundle,
        options: EngineOptions | None = None,
        *,
        first_pictures: Sequence[ImageSource | Image] = (),
        progress: ProgressCallback = silent,
    ) -> None:
        """
        Args:
            bundle: An opened bundle; its digests are compared at first use and remembered.
            options: Device settings.
            first_pictures: What will be asked about first: encoded while the language model is loaded.
            progress: Told the bytes read while digests are compared.

        Raises:
            BundleError: If a file is not what the manifest says, or pictures cannot be reduced as asked.
            BackendError: If the language model cannot start.
            ImageError: If a picture cannot be read.
        """
        started = time.perf_counter()
        options = options or EngineOptions()
        self.bundle, self.manifest = bundle, bundle.manifest
        self.template = find_template(self.manifest.language.template)
        self._tower = Tower(bundle, options)
        self.visual_tokens, self.alpha = options.visual_tokens, options.alpha
        bundle.verify_digests(trust_earlier=True, progress=progress)
        self.turns = TurnLock()
        self._answering: set[threading.Event] = set()
        store = PrefixStore(cache_directory()) if options.cache else None
        self._early: dict[str, Future[ImageEmbedding]] = {}
        self._leaving = StopFlag()
        with ExitStack() as begun:  # where the language model cannot start, nothing else goes on
            begun.callback(self._tower.close)
            begun.callback(self._leaving.set)
            self._encode_early(first_pictures, store)
            self.decoder = Decoder(bundle.file("language"), self.manifest.language, options.decoder)
            begun.callback(self.decoder.close)
            engines = begun.pop_all()
        self.gate = Gate("this model", partial(_stop, self._leaving, self._answering), engines.close)
        weakref.finalize(self, self.gate.abandon).atexit = False  # the gate itself sees to the end of the process
        self.prefixes = PrefixCache(self.decoder, self.manifest.files["language"].sha256, store)
        self._language_load_s = time.perf_counter() - started

    def __enter__(self) -> LlavaModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether `close()` was called."""
        return self.gate.closed

    @property
    def tower_is_open(self) -> bool:
        """Whether the next picture need not wait until the tower is opened, which takes one core."""
        return self._tower.is_open

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU does a part of the work; the tower's place is known once it was opened."""
        return self.decoder.on_gpu or self._tower.on_gpu

    @property
    def load_s(self) -> float:
        """Seconds that opening the engines took so far."""
        return self._language_load_s + self._tower.open_s

    def session(self, options: SamplingOptions | None = None, *, on_full: OnFull = "error") -> Session:
        """Begins a conversation.

        Args:
            options: How answers are drawn.
            on_full: What happens when a question does not fit in the context, see `Session.on_full`.

        Raises:
            EdgeLlavaError: If the model is closed, or was opened by the process that forked this one.
        """
        self.check_open()
        return Session(self, options or SamplingOptions(), on_full)

    def embed_image(self, source: ImageSource | Image, *, apply_exif: bool = True) -> ImageEmbedding:
        """Encodes a picture once, to be used in many questions.

        Args:
            source: A path, the bytes of a file, a file object, a Pillow image, an array, or an opened image.
            apply_exif: Rotate by the EXIF orientation.

        Raises:
            ImageError: If the picture cannot be read.
            EdgeLlavaError: If the model is closed, also meanwhile.
        """
        opened = self._tower.open(source, apply_exif=apply_exif)
        with self.in_use():
            return self._wait_for(self._tower.start(opened, cancel=self._leaving))

    def patch_features(self, source: ImageSource | Image, *, apply_exif: bool = True) -> NDArray[np.float32]:
        """What the tower sees in a picture, before the projector: float32 (P, D); of tiles, one after another.

        Raises:
            ImageError: If the picture cannot be read.
            EdgeLlavaError: If the model is closed, also meanwhile.
        """
        opened = self._tower.open(source, apply_exif=apply_exif)
        with self.in_use():
            features = self._wait_for(self._tower.start_features(opened, self._leaving))
        return features.reshape(-1, features.shape[-1])

    def place_image(self, image: ImageSource | Image | ImageEmbedding) -> ImageRun:
        """A picture, or an embedding, as a part of a conversation; nothing is encoded.

        Raises:
            ImageError: If the picture cannot be read or the embedding belongs to another bundle.
        """
        return self._tower.place(image)

    def start_encoding(self, run: ImageRun, cancel: threading.Event) -> None:
        """Begins to compute the rows of a picture that is part of a conversation, unless somebody has.

        Args:
            run: Without rows.
            cancel: Set it from another thread to stop.

        Raises:
            EdgeLlavaError: If the model is closed.
        """
        if run.image is None or run.encoding is not None:
            return
        with self.in_use():
            run.encoding = self._early.pop(run.key, None) or self._tower.start(run.image, run.key, cancel)

    def finish_encoding(self, run: ImageRun, cancel: threading.Event) -> ImageEmbedding:
        """Waits for the rows of a picture whose encoding was begun, and puts them into their place.

        Raises:
            Cancelled: If `cancel` was set meanwhile.
            BackendError: If an engine fails or gives impossible numbers; also if the tower cannot start.
            BundleError: If tower or projector is not what the manifest says.
            MissingExtra: If ONNX Runtime is not installed.
            EdgeLlavaError: If the model is closed.
        """
        if run.encoding is None:
            raise ValueError("nobody has begun to encode this picture")
        with self.in_use():
            try:
                embedding = wait_for(run.encoding, cancel)
            finally:
                run.stop_encoding()  # what failed is tried again with the next question
        run.take(embedding)
        return embedding

    def _wait_for(self, work: Future[_Result]) -> _Result:
        try:
            return wait_for(work, self._leaving)
        except Cancelled:
            self.gate.check_open()
            raise

    def _encode_early(self, sources: Sequence[ImageSource | Image], store: PrefixStore | None) -> None:
        for source in sources:
            opened = self._tower.open(source)
            key = self._tower.key(opened)
            if store is None or not store.has_any(picture_mark(key)):
                self._early[key] = self._tower.start(opened, key, self._leaving)

    def check_embedding(self, embedding: ImageEmbedding) -> ImageEmbedding:
        """Returns the embedding if it was made by this bundle's tower and projector.

        Raises:
            ImageError: If it was not; says by which part it differs.
        """
        return self._tower.check(embedding)

    def show_input(self, source: ImageSource | Image) -> PIL.Image.Image:
        """What the tower sees of a picture, as RGB; of tiles, the whole and beside it the canvas.

        Raises:
            ImageError: If the picture cannot be read.
        """
        return self._tower.show_input(source)

    def check_open(self) -> None:
        """
        Raises:
            EdgeLlavaError: If the model is closed, or was opened by the process that forked this one.
        """
        self.gate.check_open()

    def in_use(self) -> AbstractContextManager[None]:
        """While inside, the engines stay open: `close()` of another thread waits.

        Raises:
            EdgeLlavaError: If the model is closed.
        """
        return self.gate.inside()

    @contextmanager
    def answering(self, cancel: threading.Event) -> Iterator[None]:
        """While inside, `close()` sets `cancel`.

        Raises:
            EdgeLlavaError: If the model is closed.
        """
        self._answering.add(cancel)
        try:
            self.check_open()  # whoever closes from here on sees it
            yield
        finally:
            self._answering.discard(cancel)

    def close(self) -> None:
        """Frees the engines; stops answers of other threads, and waits until they have. Safe to call twice.

        On a thread that is itself computing, which a signal handler can bring about, it returns at once, and the
        engines are freed when that computation has stopped. In a forked child it does nothing.
        """
        self.gate.close()


def _stop(leaving: StopFlag, answering: Iterable[threading.Event]) -> None:
    leaving.set()
    for cancel in tuple(answering):
        cancel.set()


def load(
    name_or_path: str | os.PathLike[str] | None = None,
    options: EngineOptions | None = None,
    *,
    first_pictures: Sequence[ImageSource | Image] = (),
    progress: ProgressCallback = silent,
) -> LlavaModel:
    """Opens a bundle by name or path (None: the default bundle), validates it, and starts its engines.

    Args:
        name_or_path: The bundle.
        options: Taken as they are. None: what `edge-llava tune` measured for this bundle on this device, or else the
            defaults; `EngineOptions()` is always the defaults.
        first_pictures: What will be asked about first: encoded while the language model is loaded.
        progress: Told the bytes read while digests are compared.

    Raises:
        BundleError: If there is no such bundle, or it is damaged.
        BackendError: If an engine cannot start.
        ImageError: If a picture cannot be read.
    """
    bundle = Bundle.open(find_bundle(name_or_path))
    return LlavaModel(bundle, options or tuned_options(bundle.path), first_pictures=first_pictures, progress=progress)
