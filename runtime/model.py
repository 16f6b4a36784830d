"""LlavaModel: opens a bundle, owns its tower and its engine, makes image embeddings and sessions."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import replace
from types import TracebackType
from typing import TypeVar

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from edge_llava.bundle.bundle import Bundle, open_bundle
from edge_llava.errors import ContextOverflow
from edge_llava.home.directories import cache_directory
from edge_llava.home.image_files.opening import ImageSource
from edge_llava.home.progress import ProgressCallback, silent
from edge_llava.runtime.answer import Opened, Token
from edge_llava.runtime.dialogue.messages import Message, Prompt
from edge_llava.runtime.dialogue.past_turns import OnFull, check_on_full
from edge_llava.runtime.dialogue.planner import Planner
from edge_llava.runtime.engine.answer import Answer, TokenCallback
from edge_llava.runtime.engine.engine import Engine
from edge_llava.runtime.engine.metrics import EngineMetrics
from edge_llava.runtime.kv.disk_cache import PrefixStore
from edge_llava.runtime.lifetime.cancel import Cancelled
from edge_llava.runtime.options import EngineOptions, SamplingOptions, n_ctx, tuned_options
from edge_llava.runtime.session import Session
from edge_llava.runtime.vision.image import Image
from edge_llava.runtime.vision.image_embedding import ImageEmbedding
from edge_llava.runtime.vision.tower import Tower, wait_for

_Result = TypeVar("_Result")


class LlavaModel:
    """A bundle with its engines running. Thread-safe.

    Attributes:
        bundle, manifest: What was opened.
        options: Device settings.
        tower: Opens and encodes images.
        engine: Computes the answers.
        on_full: What happens to a conversation that does not fit, unless `session` or `submit` say otherwise; see
            `Session.on_full`.
    """

    def __init__(
        self,
        bundle: Bundle,
        options: EngineOptions | None = None,
        *,
        first_images: Sequence[ImageSource | Image] = (),
        progress: ProgressCallback = silent,
    ) -> None:
        """
        Args:
            bundle: An opened bundle; its digests are compared at first use and remembered.
            options: Device settings.
            first_images: What will be asked about first: encoded while the language model is loaded.
            progress: Called with the bytes read while digests are compared.

        Raises:
            BundleError: If a file is not what the manifest says, or images cannot be made fewer tokens or tiles.
            BackendError: If the language model cannot start, or ONNX Runtime does not have the provider.
            ImageError: If an image cannot be read.
            ValueError: If the KV cache is to be smaller than one conversation.
        """
        started = time.perf_counter()
        self.options = options = options or EngineOptions()
        self.bundle, self.manifest = bundle, bundle.manifest
        self.on_full: OnFull = "error"
        n_least = n_ctx(bundle.manifest.language, options.decoder)
        if options.n_positions is not None and options.n_positions < n_least:
            raise ValueError(f"n_positions must be at least {n_least}, which is one conversation")
        self.tower = Tower(bundle, options)
        with ExitStack() as begun:  # where the language model cannot start, nothing else continues
            begun.callback(self.tower.close)
            bundle.verify_digests(trust_earlier=True, progress=progress)
            store = PrefixStore(cache_directory()) if options.cache else None
            self._encode_early(first_images, store)
            self.engine = Engine(bundle, options, self.tower, store)
            begun.callback(self.engine.close)
            self._planner = Planner(self.engine.language, self.tower, self.engine.language.n_ctx, options.parallel)
            begun.pop_all()
        self.gate = self.engine.gate
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
    def is_open(self) -> bool:
        """Whether it takes questions: not after `close()`, nor after a fault that ended the engine's thread."""
        return self.engine.is_open

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU does a part of the work; the tower's place is known once it was opened."""
        return self.engine.language.on_gpu or self.tower.on_gpu

    @property
    def load_s(self) -> float:
        """Seconds that opening the engines took so far."""
        return self._language_load_s + self.tower.open_s

    @property
    def vision_on(self) -> str | None:
        """Where images are encoded, as `Timings.vision_on`: None until one was."""
        return self.tower.provider

    @property
    def language_on(self) -> str:
        """Where the language model's blocks are, as `Timings.language_on`."""
        return self.engine.language.place

    @property
    def n_ctx(self) -> int:
        """Positions that one conversation may take, its answer among them."""
        return self.engine.language.n_ctx

    @property
    def metrics(self) -> EngineMetrics:
        """What the engine is doing and has done."""
        return self.engine.metrics

    def session(self, options: SamplingOptions | None = None, *, on_full: OnFull | None = None) -> Session:
        """Begins a conversation.

        Args:
            options: How answers are sampled.
            on_full: What happens when a question does not fit in the context, see `Session.on_full`; None: as
                `self.on_full`.

        Raises:
            EdgeLlavaError: If the model is closed, or was opened by the process that forked this one.
        """
        self.check_open()
        return Session(self.engine, self._planner, self._opened, options or SamplingOptions(), on_full or self.on_full)

    def submit(
        self,
        prompt: Prompt,
        options: SamplingOptions,
        on_token: TokenCallback,
        *,
        on_full: OnFull | None = None,
        salt: str = "",
        alone: bool = False,
    ) -> Answer:
        """Asks for the answer to a whole conversation, for clients that keep it themselves.

        Images are opened before this returns, and encoded later. An earlier answer among the messages is recognized by
        its text, so that the conversation continues where it stopped.

        Args:
            prompt: The conversation. Where its last message is the assistant's, the answer continues that. Or a text,
                which is continued as it is.
            options: How the answer is sampled.
            on_token: Called with every token, on the engine's thread: it must return at once, since all other answers
                wait for it. What it raises ends this answer alone. The last token has a `finish_reason`.
            on_full: What happens if the conversation does not fit; None: as `self.on_full`.
            salt: Only conversations of the same salt share what was computed, text and images: from `n_cached_tokens`
                and timings, clients learn nothing about conversations of other salts.
            alone: Take images only, and what is before them, from other conversations: earlier ones change no bit.
                Several at a time change one another's last bits anyway; there, it is a few words more.

        Raises:
            QueueFull: If as many answers run and wait as may.
            ContextOverflow: If the conversation does not fit.
            ImageError: If an image cannot be read or an embedding belongs to another bundle.
            BackendError: If the grammar does not compile.
            ValueError: If the messages are not a conversation, or the options do not go with them.
            EdgeLlavaError: If the model is closed, or was opened by the process that forked this one.
        """
        wanted = on_full or self.on_full
        check_on_full(wanted)
        with self.gate.inside():
            self.engine.check_room()
            request = self._planner.request(prompt, options, wanted, salt, alone=alone)
            if request.start.ids and (options.grammar is not None or options.json_schema is not None):
                raise ValueError("a grammar holds for a whole answer: it cannot continue one that the messages begin.")
            return self.engine.submit(request, on_token)

    def prepare(self, messages: Sequence[Message], *, on_full: OnFull | None = None, salt: str = "") -> Answer | None:
        """Begins to compute what stands before a question, as `Session.prepare`, for clients that keep conversations.

        Args:
            messages: The conversation up to the question, with its images; the last message's text is left out.
            on_full: As `submit`.
            salt: As `submit`.

        Returns:
            A handle to wait for or cancel; None if there is no image, and so nothing to compute.

        Raises: As `submit`.
        """
        wanted = on_full or self.on_full
        check_on_full(wanted)
        with self.gate.inside():
            self.engine.check_room(is_preparation=True)
            request = self._planner.preparation(messages, wanted, salt)
            return None if request is None else self.engine.submit(request, _ignore)

    def open_image(self, source: ImageSource | Image) -> Image:
        """Opens an image, the slow part of what `submit` and `Session.ask` do with other sources.

        Raises:
            ImageError: If it cannot be read.
        """
        return self.tower.open(source)

    def embed_image(
        self, source: ImageSource | Image, *, apply_exif: bool = True, among_several: bool = False
    ) -> ImageEmbedding:
        """Encodes an image once, to be used in many questions.

        Args:
            source: A path, the bytes of a file, a file object, a Pillow image, an array, or an opened image.
            apply_exif: Rotate by the EXIF orientation.
            among_several: For conversations with several images, in which some models see each in another form.

        Raises:
            ImageError: If the image cannot be read.
            EdgeLlavaError: If the model is closed, also while this waits.
        """
        n_images = 2 if among_several else 1
        image = self.tower.open(source, apply_exif=apply_exif, n_images=n_images)
        with self.gate.inside():
            return self._wait_for(self.tower.start(image, form=self.tower.forms.choose(n_images)))

    def patch_features(self, source: ImageSource | Image, *, apply_exif: bool = True) -> NDArray[np.float32]:
        """What the tower sees in an image, before the projector: float32 (P, D); of tiles, one after another.

        Raises:
            ImageError: If the image cannot be read.
            EdgeLlavaError: If the model is closed, also while this waits.
        """
        image = self.tower.open(source, apply_exif=apply_exif)
        with self.gate.inside():
            features = self._wait_for(self.tower.start_features(image))
        return features.reshape(-1, features.shape[-1])

    def show_input(self, source: ImageSource | Image) -> PIL.Image.Image:
        """What the tower is shown of an image, as RGB; of tiles, the whole and to its right the canvas.

        Raises:
            ImageError: If the image cannot be read.
        """
        return self.tower.show_input(source)

    def check_open(self) -> None:
        """
        Raises:
            EdgeLlavaError: If the model is closed, or was opened by the process that forked this one.
        """
        self.gate.check_open()

    def close(self) -> None:
        """Frees the engines; ends the answers of other threads, and waits until they have. Safe to call twice.

        On a thread that is itself inside the model, which a signal handler can bring about, it returns at once, and the
        engines are freed when that has stopped. In a forked child it does nothing.
        """
        self.engine.close()

    def _opened(self) -> Opened:
        return Opened(self.load_s, self.vision_on, self.language_on)

    def _wait_for(self, work: Future[_Result]) -> _Result:
        try:
            return wait_for(work, self.gate.closing)
        except Cancelled:
            self.gate.check_open()
            raise

    def _encode_early(self, sources: Sequence[ImageSource | Image], store: PrefixStore | None) -> None:
        form = self.tower.forms.choose(len(sources))
        for source in sources:
            image = self.tower.open(source, n_images=len(sources))
            if store is None or not store.has_image(self.tower.key(image, form)):
                self.tower.start_early(image, form)


def load(
    bundle: Bundle | str | os.PathLike[str] | None = None,
    options: EngineOptions | None = None,
    *,
    parallel: int | None = None,
    first_images: Sequence[ImageSource | Image] = (),
    progress: ProgressCallback = silent,
) -> LlavaModel:
    """Opens a bundle, validates it, and starts its engines.

    Args:
        bundle: A name in the home, a directory, or an opened bundle; None is the default bundle.
        options: Taken as they are. None: what `edge-llava tune` measured for this bundle on this device, or else the
            defaults; `EngineOptions()` is always the defaults.
        parallel: Answers that are computed at the same time, in place of what the options say.
        first_images: What will be asked about first: encoded while the language model is loaded, and then prepared, as
            `Session.prepare` does.
        progress: Called with the bytes read while digests are compared.

    Raises:
        BundleError: If there is no such bundle, or it is damaged.
        BackendError: If an engine cannot start.
        ImageError: If an image cannot be read.
    """
    opened = open_bundle(bundle)
    options = options or tuned_options(opened)
    if parallel is not None:
        options = replace(options, parallel=parallel)
    images = [Image.open(source, alpha=options.alpha) for source in first_images]
    model = LlavaModel(opened, options, first_images=images, progress=progress)
    with ExitStack() as opened_model:
        opened_model.callback(model.close)
        with suppress(ContextOverflow):  # which the question will raise
            if images:
                model.prepare([Message("user", "", tuple(images))])
        opened_model.pop_all()
    return model


def _ignore(token: Token) -> None:
    pass
