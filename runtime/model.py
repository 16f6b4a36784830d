"""LlavaModel: opens a bundle, owns the engines, makes image embeddings and sessions."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edge_llava.bundle import Bundle
from edge_llava.errors import EdgeLlavaError, ImageError
from edge_llava.home import cache_directory, find_bundle
from edge_llava.profile import DeviceSettings, find_profile
from edge_llava.progress import ProgressCallback, silent
from edge_llava.runtime.conversation import ImageRun
from edge_llava.runtime.decoder import Decoder
from edge_llava.runtime.decoder_options import DecoderOptions
from edge_llava.runtime.image_embedding import ImageEmbedding
from edge_llava.runtime.image_key import image_key, tower_digest
from edge_llava.runtime.late_encoder import LateEncoder
from edge_llava.runtime.picture import PictureSource, open_picture
from edge_llava.runtime.picture_encoder import PictureEncoder
from edge_llava.runtime.prefix_cache import PrefixCache
from edge_llava.runtime.prefix_store import PrefixStore
from edge_llava.runtime.preprocess import cut_squares
from edge_llava.runtime.sampler import SamplingOptions
from edge_llava.runtime.session import Session
from edge_llava.runtime.threads import count_cores
from edge_llava.runtime.tiles import count_tokens, lay_out
from edge_llava.runtime.token_reduction import check_visual_tokens
from edge_llava.runtime.turn_lock import TurnLock
from edge_llava.runtime.vision import VisionProvider
from edge_llava.templates import find_template

_log = logging.getLogger("edge_llava.profile")


@dataclass(frozen=True)
class EngineOptions:
    """How a bundle runs on this device.

    Attributes:
        decoder: Settings of the language model.
        n_vision_threads: CPU threads of tower and projector; None takes the physical cores.
        vision_provider: "cuda", "cpu", or "auto": CUDA where the installed ONNX Runtime and the device have it.
        vision_spinning: The tower's threads wait for work awake: quicker, but they take the CPU from others.
        cache: Keep the computed beginning of conversations, system prompt and pictures, in the home's cache directory,
            so that a later process that is asked about the same pictures begins there. The files derive from the
            pictures; they are readable by this user only.
        visual_tokens: Tokens that a picture is reduced to, from 2 up to one less than it has: less to prefill, and
            less seen. None keeps all.

    Raises:
        ValueError: If a value is out of range.
    """

    decoder: DecoderOptions = field(default_factory=DecoderOptions)
    n_vision_threads: int | None = None
    vision_provider: VisionProvider = "auto"
    vision_spinning: bool = True
    cache: bool = False
    visual_tokens: int | None = None

    def __post_init__(self) -> None:
        faults = []
        if self.n_vision_threads is not None and self.n_vision_threads < 1:
            faults.append("n_vision_threads must be at least 1")
        if self.vision_provider not in ("auto", "cpu", "cuda"):
            faults.append("vision_provider must be auto, cpu or cuda")
        if self.visual_tokens is not None and self.visual_tokens < 2:
            faults.append("visual_tokens must be at least 2")
        if faults:
            raise ValueError("; ".join(faults))


class LlavaModel:
    """A bundle with its engines running. May be used from several threads: one answer at a time, the rest in order.

    Attributes:
        bundle, manifest: What was opened.
        decoder: The language model.
        prefixes: What it has computed before.
        closed: Whether `close()` was called.
    """

    def __init__(
        self, bundle: Bundle, options: EngineOptions | None = None, *, progress: ProgressCallback = silent
    ) -> None:
        """
        Args:
            bundle: An opened bundle; its digests are compared at first use and remembered.
            options: Device settings.
            progress: Told the bytes read while digests are compared.

        Raises:
            BundleError: If a file is not what the manifest says, or pictures cannot be reduced as asked.
            BackendError: If the language model cannot start.
        """
        started = time.perf_counter()
        options = options or EngineOptions()
        self.bundle, self.manifest, self.closed = bundle, bundle.manifest, False
        self.template = find_template(self.manifest.language.template)
        check_visual_tokens(options.visual_tokens, self.manifest.vision)
        self._visual_tokens = options.visual_tokens
        bundle.verify_digests(trust_earlier=True, progress=progress)
        self.turns = TurnLock()
        self._users = threading.Condition()
        self._n_users = 0
        n_threads, provider = options.n_vision_threads or count_cores(), options.vision_provider
        spinning, n_rows = options.vision_spinning, options.visual_tokens
        self._tower = LateEncoder(
            lambda: PictureEncoder(bundle, n_threads, provider, spinning=spinning, visual_tokens=n_rows)
        )
        self.decoder = Decoder(bundle.file("language"), self.manifest.language, options.decoder)
        store = PrefixStore(cache_directory()) if options.cache else None
        self.prefixes = PrefixCache(self.decoder, self.manifest.files["language"].sha256, store)
        self._language_load_s = time.perf_counter() - started

    def __enter__(self) -> LlavaModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pictures(self) -> PictureEncoder:
        """Tower and projector; opened when first asked for, since a picture may be known without them.

        Raises:
            BundleError: If a file is not what the manifest says.
            BackendError: If an engine cannot start.
            MissingExtra: If ONNX Runtime is not installed.
            EdgeLlavaError: If the model is closed.
        """
        self.check_open()
        return self._tower.get()

    @property
    def load_s(self) -> float:
        """Seconds that opening the engines took so far."""
        return self._language_load_s + self._tower.open_s

    def session(self, options: SamplingOptions | None = None) -> Session:
        """Begins a conversation."""
        self.check_open()
        return Session(self, options or SamplingOptions())

    def embed_image(self, source: PictureSource, *, apply_exif: bool = True) -> ImageEmbedding:
        """Encodes a picture once, to be used in many questions.

        Args:
            source: A path, bytes, PIL image or uint8 array (H, W, 3).
            apply_exif: Rotate by the EXIF orientation.

        Raises:
            ImageError: If the picture cannot be read.
        """
        self.check_open()
        return self.encode(open_picture(source, apply_exif=apply_exif), None)

    def patch_features(self, source: PictureSource, *, apply_exif: bool = True) -> NDArray[np.float32]:
        """What the tower sees in a picture, before the projector: float32 (P, D); of tiles, one after another.

        Raises:
            ImageError: If the picture cannot be read.
        """
        picture = open_picture(source, apply_exif=apply_exif)
        with self.in_use():
            features = self._tower.get().patch_features(picture)
        return features.reshape(-1, features.shape[-1])

    def encode(self, picture: Image.Image, cancel: threading.Event | None) -> ImageEmbedding:
        """Encodes an opened picture (upright RGB).

        Raises:
            Cancelled: If `cancel` was set meanwhile.
            BackendError: If an engine fails or gives impossible numbers.
            EdgeLlavaError: If the model is closed.
        """
        with self.in_use():
            return self._tower.get(cancel).encode(picture, cancel)

    def place_image(self, image: PictureSource | ImageEmbedding) -> ImageRun:
        """A picture, or an embedding, as a part of a conversation; nothing is encoded.

        Raises:
            ImageError: If the picture cannot be read or the embedding belongs to another bundle.
        """
        if isinstance(image, ImageEmbedding):
            return ImageRun.of_embedding(self.check_embedding(image))
        picture = open_picture(image)
        key = image_key(picture, self.manifest, self._visual_tokens)
        return ImageRun(key, key, count_tokens(picture.size, self.manifest.vision, self._visual_tokens), picture)

    def encode_run(self, run: ImageRun, cancel: threading.Event) -> ImageEmbedding:
        """Computes the rows of a picture that is part of a conversation, and puts them there.

        Raises: as `encode`.
        """
        if run.picture is None:
            raise ValueError("this picture is encoded already")
        with self.in_use():
            embedding = self._tower.get(cancel).encode(run.picture, cancel, run.key)
        run.take(embedding)
        return embedding

    def check_embedding(self, embedding: ImageEmbedding) -> ImageEmbedding:
        """Returns the embedding if it was made by this bundle's tower and projector.

        Raises:
            ImageError: If it was not; says by which part it differs.
        """
        own_projector = self.manifest.files["projector"].sha256
        for part, digest, own in (
            ("vision tower", embedding.vision_sha256, tower_digest(self.manifest)),
            ("projector", embedding.projector_sha256, own_projector),
        ):
            if digest != own:
                raise ImageError(
                    f"this image embedding was made by another {part} ({digest[:12]}...) "
                    f"than that of {self.bundle.name} ({own[:12]}...). "
                    "Make it again: edge-llava embed IMAGE -o FILE.safetensors"
                )
        n_tokens = count_tokens(embedding.image_size, self.manifest.vision, self._visual_tokens)
        wanted = (n_tokens, self.manifest.language.n_embd)
        if embedding.data.shape != wanted:
            raise ImageError(
                f"this image embedding has shape {embedding.data.shape}, expected {wanted}. Rows differ where the "
                "picture and the question were given other --visual-tokens: use the same for both."
            )
        return embedding

    def show_input(self, source: PictureSource) -> Image.Image:
        """What the tower sees of a picture, as RGB; of tiles, the whole and beside it the canvas.

        Raises:
            ImageError: If the picture cannot be read.
        """
        picture = open_picture(source)
        return lay_out(cut_squares(picture, self.manifest.vision), picture.size, self.manifest.vision)

    def check_open(self) -> None:
        """
        Raises:
            EdgeLlavaError: If the model is closed.
        """
        if self.closed:
            raise EdgeLlavaError("this model is closed. Load it again.")

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """While inside, the engines stay open: `close()` of another thread waits. For short work outside a turn.

        Raises:
            EdgeLlavaError: If the model is closed.
        """
        with self._users:
            self.check_open()
            self._n_users += 1
        try:
            yield
        finally:
            with self._users:
                self._n_users -= 1
                self._users.notify_all()

    def close(self) -> None:
        """Frees the engines; waits for an answer of another thread to stop. Safe to call twice."""
        with self._users:
            if self.closed:
                return
            self.closed = True
        with self.turns.last():
            with self._users:
                self._users.wait_for(lambda: self._n_users == 0)
            self.decoder.close()
            self._tower.close()


def load(
    name_or_path: str | os.PathLike[str] | None = None,
    options: EngineOptions | None = None,
    *,
    progress: ProgressCallback = silent,
) -> LlavaModel:
    """Opens a bundle by name or path (None: the default bundle), validates it, and starts its engines.

    Args:
        name_or_path: The bundle.
        options: Taken as they are. None: what `edge-llava tune` measured for this bundle on this device, or else the
            defaults; `EngineOptions()` is always the defaults.
        progress: Told the bytes read while digests are compared.

    Raises:
        BundleError: If there is no such bundle, or it is damaged.
        BackendError: If an engine cannot start.
    """
    bundle = Bundle.open(find_bundle(name_or_path))
    return LlavaModel(bundle, options or tuned_options(bundle.path), progress=progress)


def tuned_options(
    name_or_path: str | os.PathLike[str] | None = None, *, warn: Callable[[str], None] = _log.warning
) -> EngineOptions:
    """What `edge-llava tune` found best for a bundle on this device; the defaults where nothing was measured.

    To change one of them: `dataclasses.replace(tuned_options(name), n_vision_threads=2)`.

    Args:
        name_or_path: The bundle; None is the default one.
        warn: Told about a damaged profile, which is ignored.

    Raises:
        BundleError: If there is no such bundle, or it is damaged.
    """
    profile = find_profile(Bundle.open(find_bundle(name_or_path)).manifest, warn=warn)
    return EngineOptions() if profile is None else engine_options(profile.settings)


def engine_options(settings: DeviceSettings) -> EngineOptions:
    """The options of measured settings."""
    decoder = DecoderOptions(
        n_threads=settings.n_threads,
        n_batch=settings.n_batch,
        kv_type=settings.kv_type,
        flash_attention=settings.flash_attention,
        repack=settings.repack,
    )
    return EngineOptions(decoder, n_vision_threads=settings.n_vision_threads, vision_spinning=settings.vision_spinning)
