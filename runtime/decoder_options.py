"""How the language model runs on a device, and what llama.cpp is told of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import llama_cpp

from edge_llava.manifest import LanguageSpec
from edge_llava.profile import KvType
from edge_llava.runtime.kv_state import N_SEQUENCES
from edge_llava.runtime.threads import usable_threads

_GGML_TYPES = {"f32": 0, "f16": 1, "q8_0": 8}
_MAX_COUNT = 1 << 20  # far beyond any LLaVA; llama.cpp's own counts would wrap around


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
        if self.kv_type not in ("auto", *_GGML_TYPES):
            faults.append(f"kv_type must be auto, {' or '.join(_GGML_TYPES)}")
        if self.kv_type == "q8_0" and self.flash_attention is False:
            faults.append("kv_type q8_0 needs flash attention")
        if faults:
            raise ValueError("; ".join(faults))


def n_ctx(spec: LanguageSpec, options: DecoderOptions) -> int:
    """Positions of the context."""
    return options.n_ctx if options.n_ctx is not None else min(spec.n_ctx_train, 4096)


def model_params(options: DecoderOptions) -> Any:
    """llama.cpp's parameters of the weights."""
    params = llama_cpp.llama_model_default_params()
    if options.n_gpu_layers >= 0:
        params.n_gpu_layers = options.n_gpu_layers
    params.use_extra_bufts = options.repack and can_repack()
    return params


def can_repack() -> bool:
    """Whether weights may be repacked: not where llama.cpp was built with AMX kernels, which come with it.

    GCC before 12.4 and 13.3 compiles their set-up wrongly (its bug 114098), and the first product kills the process.
    """
    return b"AMX_INT8 = 1" not in llama_cpp.llama_print_system_info()


def context_params(spec: LanguageSpec, options: DecoderOptions) -> Any:
    """llama.cpp's parameters of the context; the KV cache and attention of an F32 bundle keep it exact."""
    is_exact = spec.quant == "F32"
    kv_type = options.kv_type if options.kv_type != "auto" else ("f32" if is_exact else "f16")
    keeps_exact = is_exact and kv_type != "q8_0"
    flash_attention = False if options.flash_attention is None and keeps_exact else options.flash_attention
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = n_ctx(spec, options)
    params.n_batch = params.n_ubatch = options.n_batch
    params.n_threads = params.n_threads_batch = usable_threads(options.n_threads)
    params.type_k = params.type_v = _GGML_TYPES[kv_type]
    params.flash_attn_type = -1 if flash_attention is None else int(flash_attention)  # -1: llama.cpp decides
    params.no_perf = True
    params.n_seq_max, params.kv_unified = N_SEQUENCES, True
    return params


def weight_settings(params: Any) -> dict[str, int]:
    """Of `model_params`, what decides which numbers are computed."""
    return {"n_gpu_layers": int(params.n_gpu_layers), "use_extra_bufts": int(params.use_extra_bufts)}


def context_settings(params: Any) -> dict[str, int]:
    """Of `context_params`, what decides which numbers are computed."""
    names = ("type_k", "type_v", "flash_attn_type", "n_batch", "n_ubatch")
    return {name: int(getattr(params, name)) for name in names}
