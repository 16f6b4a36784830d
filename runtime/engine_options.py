"""How a bundle runs on a device: both engines' settings, given or measured."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field

from edge_llava.bundle import Bundle
from edge_llava.home import find_bundle
from edge_llava.images.alpha import ALPHAS, Alpha
from edge_llava.profile import DeviceSettings, find_profile
from edge_llava.runtime.decoder_options import DecoderOptions
from edge_llava.runtime.vision import VisionProvider

_log = logging.getLogger("edge_llava.profile")


@dataclass(frozen=True)
class EngineOptions:
    """How a bundle runs on this device.

    Attributes:
        decoder: Settings of the language model.
        n_vision_threads: CPU threads of tower and projector, at most one for each CPU of this process; None takes the
            physical cores.
        vision_provider: "cuda", "cpu", or "auto": CUDA where the installed ONNX Runtime and the device have it.
        vision_spinning: The tower's threads wait for work awake: quicker, but they take the CPU from others.
        cache: Keep the computed beginning of conversations, system prompt and pictures, in the home's cache directory,
            so that a later process that is asked about the same pictures begins there. The files derive from the
            pictures; they are readable by this user only.
        visual_tokens: Tokens that a picture is reduced to, from 2 up to one less than it has: less to prefill, and
            less seen. None keeps all.
        alpha: What becomes of transparency in images: "white" puts them on white, as viewers show them; "drop" ignores
            it, as LLaVA's own code does, and shows whatever colour lies under it.
        low_memory: Give the tower's memory back after every picture, and map its weights instead of copying them;
            encoding takes a little longer. `DecoderOptions.repack` is the language model's part.

    Raises:
        ValueError: If a value is out of range.
    """

    decoder: DecoderOptions = field(default_factory=DecoderOptions)
    n_vision_threads: int | None = None
    vision_provider: VisionProvider = "auto"
    vision_spinning: bool = True
    cache: bool = False
    visual_tokens: int | None = None
    low_memory: bool = False
    alpha: Alpha = "white"

    def __post_init__(self) -> None:
        faults = []
        if self.n_vision_threads is not None and self.n_vision_threads < 1:
            faults.append("n_vision_threads must be at least 1")
        if self.vision_provider not in ("auto", "cpu", "cuda"):
            faults.append("vision_provider must be auto, cpu or cuda")
        if self.visual_tokens is not None and self.visual_tokens < 2:
            faults.append("visual_tokens must be at least 2")
        if self.alpha not in ALPHAS:
            faults.append(f"alpha must be {' or '.join(ALPHAS)}")
        if faults:
            raise ValueError("; ".join(faults))


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
