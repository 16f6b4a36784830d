"""What a user may set: how a bundle runs on a device, and how tokens are sampled."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from edge_llava.bundle.bundle import Bundle, open_bundle
from edge_llava.bundle.language_spec import LanguageSpec
from edge_llava.device.facts import DeviceFacts, this_device
from edge_llava.device.profile import KV_TYPES, DeviceSettings, KvType, find_profile
from edge_llava.ggml.limits import MAX_SEQUENCES
from edge_llava.home.image_files.alpha import ALPHAS, Alpha

_log = logging.getLogger("edge_llava.profile")
_MAX_COUNT = 1 << 20  # far beyond any LLaVA; llama.cpp's own counts would wrap around
_MAX_SEED = 0xFFFFFFFE  # one less than LLAMA_DEFAULT_SEED, for which llama.cpp chooses one at random
_MAX_TOP_LOGPROBS = 20
_MAX_BIASES = 1024
_MAX_PARALLEL = (MAX_SEQUENCES - 1) // 2  # as many conversations are remembered as run, and one is for copies
VisionProvider = Literal["auto", "cpu", "cuda", "tensorrt", "coreml", "directml", "openvino"]
VISION_PROVIDERS = get_args(VisionProvider)


@dataclass(frozen=True)
class DecoderOptions:
    """How the language model runs on this device.

    Attributes:
        n_ctx: Positions of the context; None takes the trained length, at most 4,096.
        n_threads: CPU threads, at most one for each CPU of this process; None takes the big physical cores,
            or as many as the CPU time of its container keeps busy.
        adapts_threads: Compute with fewer threads while other programs keep CPUs busy, which is many times as fast
            then; of one conversation at a time with plain attention only. None: where `n_threads` is None.
        n_batch: Positions computed at a time while prefilling.
        n_gpu_layers: Blocks on GPUs. -1: all, where llama.cpp sees a GPU. 0: none, and nothing is computed there.
        devices: Names of the GPUs to put them on, as llama.cpp lists them, such as "CUDA0"; () none. None: all GPUs,
            else one that is a part of the processor.
        kv_type: Numbers of the KV cache; "auto" takes "f32" for F32 bundles and "f16" for all others. "q8_0" takes half
            of the latter's memory, is less exact, and needs flash attention.
        flash_attention: None leaves it to llama.cpp, except for F32 bundles and, on a CPU, for one conversation at a
            time, where it is off: llama.cpp's rounds to half precision, which moves logits by 5e-3 where the plain one
            stays within 1e-5 of the reference, its results depend on the number of threads, and a token takes longer
            (prefill is a little faster).
        repack: Rearrange quantized weights for this CPU: mostly faster decode, but on x86 without AMX slower prefill of
            K-quants. They take longer to load, and cannot be dropped where memory is short. None: where it is
            worthwhile, which is on Arm, on x86 with AMX that works, and elsewhere on x86 for Q4_0 and IQ4_NL.

    Raises:
        ValueError: If a value is out of range.
    """

    n_ctx: int | None = None
    n_threads: int | None = None
    adapts_threads: bool | None = None
    n_batch: int = 512
    n_gpu_layers: int = -1
    devices: tuple[str, ...] | None = None
    kv_type: KvType = "auto"
    flash_attention: bool | None = None
    repack: bool | None = None

    def __post_init__(self) -> None:
        counts = {"n_ctx": self.n_ctx, "n_threads": self.n_threads, "n_batch": self.n_batch}
        _check(
            *(
                (value is None or 1 <= value <= _MAX_COUNT, f"{name} must be from 1 to {_MAX_COUNT}")
                for name, value in counts.items()
            ),
            (-1 <= self.n_gpu_layers <= _MAX_COUNT, f"n_gpu_layers must be from -1 to {_MAX_COUNT}"),
            (not (self.devices and self.n_gpu_layers == 0), "n_gpu_layers 0 puts nothing on devices"),
            (self.devices != () or self.n_gpu_layers <= 0, "n_gpu_layers needs a device"),
            (self.kv_type in KV_TYPES, f"kv_type must be {', '.join(KV_TYPES[:-1])} or {KV_TYPES[-1]}"),
            (self.kv_type != "q8_0" or self.flash_attention is not False, "kv_type q8_0 needs flash attention"),
        )

    @property
    def may_adapt_threads(self) -> bool:
        """Whether fewer threads may compute than `n_threads`."""
        return self.n_threads is None if self.adapts_threads is None else self.adapts_threads

    @property
    def may_offload(self) -> bool:
        """Whether a GPU may compute anything."""
        return self.n_gpu_layers != 0 and self.devices != ()


def n_ctx(spec: LanguageSpec, options: DecoderOptions) -> int:
    """Positions of the context."""
    return options.n_ctx if options.n_ctx is not None else min(spec.n_ctx_train, 4096)


@dataclass(frozen=True)
class EngineOptions:
    """How a bundle runs on this device.

    Attributes:
        decoder: Settings of the language model.
        n_vision_threads: CPU threads of tower and projector, at most one for each CPU of this process; None as for
            the language model.
        vision_provider: "cpu", "cuda", "tensorrt", "coreml", "directml", "openvino", or "auto": CUDA where the
            installed ONNX Runtime and the device have it, else the CPU.
        vision_spinning: The tower's threads wait for work awake, which takes the CPU from others and is twice as slow
            where these keep a core busy; on some idle machines it is a little faster.
        cache: Keep the computed beginning of conversations, system prompt and images, in the home's cache directory,
            so that a later process that is asked about the same images begins there. The files derive from the
            images; they are readable by this user only.
        visual_tokens: Tokens that an image is reduced to, from 2 up to one less than it has: less to prefill, and
            less seen. None keeps all.
        max_tiles: Squares that an image is encoded as, at most, the whole image among them, for bundles that cut images
            into tiles: less time, and less seen. None: as many as its bundle allows.
        alpha: What becomes of transparency in images: "white" puts them on white, as viewers show them; "drop" ignores
            it, as LLaVA's own code does, and shows whatever colour lies under it.
        parallel: Answers that are computed at the same time, 1 to 127; others wait for a place.
        n_queued: Answers that may wait; None: any number.
        n_positions: What the KV cache holds, of all conversations together; None has room for `parallel` full ones.
            With less, the youngest answer is preempted when it is full, and continues later.
        host_bytes: Memory for conversations that wait for their next question while others are computed: they continue
            where they stopped, in milliseconds. The least recent are forgotten first.
        max_pause_s: The longest that running answers wait for their next token while prompts of others are computed,
            about; None: any time, where nobody reads along. Prompts are computed sooner then.
        low_memory: Give the tower's memory back after every image, and map its weights instead of copying them;
            encoding takes a little longer. `DecoderOptions.repack` is the language model's part.

    Raises:
        ValueError: If a value is out of range.
    """

    decoder: DecoderOptions = field(default_factory=DecoderOptions)
    n_vision_threads: int | None = None
    vision_provider: VisionProvider = "auto"
    vision_spinning: bool = False
    cache: bool = False
    visual_tokens: int | None = None
    max_tiles: int | None = None
    low_memory: bool = False
    alpha: Alpha = "white"
    parallel: int = 1
    n_queued: int | None = None
    n_positions: int | None = None
    host_bytes: int = 512 << 20
    max_pause_s: float | None = 0.5

    def __post_init__(self) -> None:
        _check(
            (self.n_vision_threads is None or self.n_vision_threads >= 1, "n_vision_threads must be at least 1"),
            (
                self.vision_provider in VISION_PROVIDERS,
                f"vision_provider must be {', '.join(VISION_PROVIDERS[:-1])} or {VISION_PROVIDERS[-1]}",
            ),
            (self.visual_tokens is None or self.visual_tokens >= 2, "visual_tokens must be at least 2"),
            (self.max_tiles is None or self.max_tiles >= 2, "max_tiles must be at least 2"),
            (self.alpha in ALPHAS, f"alpha must be {' or '.join(ALPHAS)}"),
            (1 <= self.parallel <= _MAX_PARALLEL, f"parallel must be from 1 to {_MAX_PARALLEL}"),
            (self.n_queued is None or self.n_queued >= 0, "n_queued must not be negative"),
            (self.host_bytes >= 0, "host_bytes must not be negative"),
            (self.max_pause_s is None or self.max_pause_s > 0, "max_pause_s must be positive"),
        )


def unattended(options: EngineOptions, language: LanguageSpec, parallel: int) -> EngineOptions:
    """The options for many short answers that nobody reads along, so many at a time.

    Two full contexts have room for several; where they have not, the youngest answer waits. Nothing is kept of what was
    answered.
    """
    n_positions = min(parallel, 2) * n_ctx(language, options.decoder) if parallel > 1 else None
    return replace(options, parallel=parallel, n_positions=n_positions, host_bytes=0, max_pause_s=None)


def measured_parallel(bundle: Bundle, options: EngineOptions) -> int:
    """As many answers at a time as `edge-llava tune` found give the most captions; 1 where it was not measured.

    Args:
        bundle: An opened bundle.
        options: Where the engines run. Of a damaged profile, `tuned_options` warns.
    """
    profile = find_profile(bundle.manifest, device_facts(options), warn=lambda text: None)
    return 1 if profile is None or profile.was_busy else profile.parallel


def tuned_options(
    bundle: Bundle | str | os.PathLike[str] | None = None,
    base: EngineOptions | None = None,
    *,
    warn: Callable[[str], None] = _log.warning,
) -> EngineOptions:
    """What `edge-llava tune` found best for a bundle on this device; the defaults where nothing was measured.

    To change one of them: `dataclasses.replace(tuned_options(bundle), n_vision_threads=2)`.

    Args:
        bundle: A name in the home, a directory, or an opened bundle; None is the default one.
        base: Where the engines are to run, for which other settings are best, and all that is not measured; None: the
            defaults.
        warn: Called with a message about a damaged profile, which is ignored.

    Raises:
        BundleError: If there is no such bundle, or it is damaged.
        BackendError: If llama.cpp has no device that `base` names.
    """
    base = base or EngineOptions()
    profile = find_profile(open_bundle(bundle).manifest, device_facts(base), warn=warn)
    if profile is None:
        return base
    options = engine_options(profile.settings, base)
    decoder = replace(options.decoder, adapts_threads=True)
    if profile.was_busy:  # other programs decided which number of threads was fastest
        decoder = replace(decoder, n_threads=None)
        options = replace(options, n_vision_threads=None)
    return replace(options, decoder=decoder)


def device_facts(options: EngineOptions) -> DeviceFacts:
    """The facts of this device, where the engines run with these options.

    Raises:
        BackendError: If llama.cpp has no device that the options name.
    """
    return this_device(options.decoder.n_gpu_layers, options.decoder.devices, options.vision_provider)


def engine_options(settings: DeviceSettings, base: EngineOptions | None = None) -> EngineOptions:
    """The options of measured settings, and of `base` what is not measured."""
    base = base or EngineOptions()
    n_gpu_layers = settings.n_gpu_layers
    is_open = base.decoder.n_gpu_layers < 0 and not (n_gpu_layers == 0 and base.decoder.devices)
    decoder = replace(
        base.decoder,
        n_gpu_layers=n_gpu_layers if is_open and n_gpu_layers is not None else base.decoder.n_gpu_layers,
        n_threads=settings.n_threads,
        n_batch=settings.n_batch,
        kv_type=settings.kv_type,
        flash_attention=settings.flash_attention,
        repack=settings.repack,
    )
    return replace(
        base,
        decoder=decoder,
        n_vision_threads=settings.n_vision_threads,
        vision_spinning=settings.vision_spinning,
    )


@dataclass(frozen=True)
class SamplingOptions:
    """How an answer is sampled. The defaults are LLaVA's command line; everything llama.cpp adds on its own is off.

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
        seed: 0 to 2**32 - 2; None: random.
        max_new_tokens: At least 1; the context may end an answer earlier.
        stop: Texts that end the answer, in addition to the template's own; they are not part of it.
        grammar: A GBNF grammar that the answer must follow, or None.
        json_schema: A JSON schema that the answer must follow, as JSON values or text; it is kept as text. None for
            none. See docs/server.md for what is enforced; everything else is refused.
        logprobs: How many of the likeliest tokens to report with every token, 0 to 20, with its own probability; None
            reports none.

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
    json_schema: Mapping[str, Any] | str | None = None
    logprobs: int | None = None

    def __post_init__(self) -> None:
        schema_fault = ""
        if self.json_schema is not None:
            from edge_llava.runtime.language.json_schema import read_schema

            try:
                object.__setattr__(self, "json_schema", read_schema(self.json_schema))
            except ValueError as error:
                schema_fault = str(error)
        _check(
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
            (self.grammar is None or self.json_schema is None, "grammar and json_schema exclude each other"),
            (not isinstance(self.stop, str) and all(self.stop), "stop must be a sequence of non-empty texts"),
            (
                self.logprobs is None or 0 <= self.logprobs <= _MAX_TOP_LOGPROBS,
                f"logprobs must be from 0 to {_MAX_TOP_LOGPROBS}",
            ),
            (not schema_fault, f"json_schema: {schema_fault}"),
        )


def _check(*rules: tuple[bool, str]) -> None:
    """Raises ValueError with what all rules say that do not hold."""
    faults = [message for holds, message in rules if not holds]
    if faults:
        raise ValueError("; ".join(faults))
