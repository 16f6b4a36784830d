"""What a user may set: how a bundle runs on a device, and how tokens are sampled."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from edge_llava.bundle.bundle import Bundle
from edge_llava.bundle.manifest import LanguageSpec
from edge_llava.device.profile import DeviceSettings, KvType, find_profile
from edge_llava.home.directories import find_bundle
from edge_llava.runtime.vision.images.alpha import ALPHAS, Alpha

_log = logging.getLogger("edge_llava.profile")
_KV_TYPES = ("auto", "f32", "f16", "q8_0")
_MAX_COUNT = 1 << 20  # far beyond any LLaVA; llama.cpp's own counts would wrap around
_MAX_SEED = 0xFFFFFFFE  # one less than LLAMA_DEFAULT_SEED, for which llama.cpp chooses one at random
_MAX_TOP_LOGPROBS = 20
_MAX_BIASES = 1024
VisionProvider = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class DecoderOptions:
    """How the language model runs on this device.

    Attributes:
        n_ctx: Positions of the context; None takes the trained length, at most 4,096.
        n_threads: CPU threads, at most one for each CPU of this process; None takes the physical cores.
        n_batch: Positions computed at a time while prefilling.
        n_gpu_layers: Blocks on the GPU, for CUDA and Metal builds; -1 all, 0 none. CPU builds ignore it.
        kv_type: Numbers of the KV cache; "auto" takes "f32" for F32 bundles and "f16" for all others. "q8_0" takes half
            of the latter's memory, is less exact, and needs flash attention.
        flash_attention: None leaves it to llama.cpp, except for F32 bundles, where it is off: llama.cpp's rounds to
            half precision, which moves logits by 5e-3 where the plain one stays within 1e-5 of the reference.
        repack: Lay quantized weights out anew for this CPU, where that is safe: faster decode, and their size in memory
            once more.

    Raises:
        ValueError: If a value is out of range.
    """

    n_ctx: int | None = None
    n_threads: int | None = None
    n_batch: int = 512
    n_gpu_layers: int = -1
    kv_type: KvType = "auto"
    flash_attention: bool | None = None
    repack: bool = True

    def __post_init__(self) -> None:
        counts = {"n_ctx": self.n_ctx, "n_threads": self.n_threads, "n_batch": self.n_batch}
        faults = [
            f"{name} must be from 1 to {_MAX_COUNT}"
            for name, value in counts.items()
            if value is not None and not 1 <= value <= _MAX_COUNT
        ]
        if self.kv_type not in _KV_TYPES:
            faults.append(f"kv_type must be {', '.join(_KV_TYPES[:-1])} or {_KV_TYPES[-1]}")
        if self.kv_type == "q8_0" and self.flash_attention is False:
            faults.append("kv_type q8_0 needs flash attention")
        if faults:
            raise ValueError("; ".join(faults))


def n_ctx(spec: LanguageSpec, options: DecoderOptions) -> int:
    """Positions of the context."""
    return options.n_ctx if options.n_ctx is not None else min(spec.n_ctx_train, 4096)


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


@dataclass(frozen=True)
class SamplingOptions:
    """How an answer is drawn. The defaults are LLaVA's command line; everything llama.cpp adds on its own is off.

    Attributes:
        temperature: 0 always takes the likeliest token, and so does what is below 0.0001.
        top_k: Keep the k likeliest; 0 keeps all.
        top_p: Keep the likeliest whose probabilities reach this sum, in (0, 1]; 1 keeps all.
        min_p: Drop tokens below this share of the likeliest's probability, in [0, 1); 0 drops none.
        repeat_penalty: Divides the positive logits, and multiplies the negative ones, of the answer's last 64 tokens;
            1 leaves them.
        frequency_penalty: Subtracted from a token's logit for every time that the answer contains it, -2 to 2.
        presence_penalty: Subtracted from the logits of all tokens that the answer contains, -2 to 2.
        logit_bias: (token id, what to add to its logit), at most 1,024 of them; the ids are the model's own.
        seed: 0 to 2**32 - 2; None draws one.
        max_new_tokens: At least 1; the context may end an answer earlier.
        stop: Texts that end the answer, beside the template's own; they are not part of it.
        grammar: A GBNF grammar that the answer must follow, or None.
        logprobs: How many of the likeliest tokens to report with every token, 0 to 20, beside its own probability;
            None reports none.

    Raises:
        ValueError: If a value is out of range; all faults at once.
    """

    temperature: float = 0.2
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    max_new_tokens: int = 512
    stop: tuple[str, ...] = ()
    grammar: str | None = None
    logprobs: int | None = None

    def __post_init__(self) -> None:
        rules = (
            (0 <= self.temperature <= 100, "temperature must be from 0 to 100"),
            (self.top_k >= 0, "top_k must not be negative"),
            (0 < self.top_p <= 1, "top_p must be above 0 and at most 1"),
            (0 <= self.min_p < 1, "min_p must be at least 0 and below 1"),
            (0 < self.repeat_penalty < 100, "repeat_penalty must be above 0"),
            (-2 <= self.frequency_penalty <= 2, "frequency_penalty must be from -2 to 2"),
            (-2 <= self.presence_penalty <= 2, "presence_penalty must be from -2 to 2"),
            (len(self.logit_bias) <= _MAX_BIASES, f"logit_bias must name at most {_MAX_BIASES} tokens"),
            (all(-100 <= bias <= 100 for _, bias in self.logit_bias), "logit_bias must be from -100 to 100"),
            (self.seed is None or 0 <= self.seed <= _MAX_SEED, f"seed must be from 0 to {_MAX_SEED}"),
            (self.max_new_tokens >= 1, "max_new_tokens must be at least 1"),
            (self.grammar is None or bool(self.grammar.strip()), "grammar must not be empty"),
            (not isinstance(self.stop, str) and all(self.stop), "stop must be a sequence of non-empty texts"),
            (
                self.logprobs is None or 0 <= self.logprobs <= _MAX_TOP_LOGPROBS,
                f"logprobs must be from 0 to {_MAX_TOP_LOGPROBS}",
            ),
        )
        faults = [message for holds, message in rules if not holds]
        if faults:
            raise ValueError("; ".join(faults))
