"""Our options as llama.cpp's parameters."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import llama_cpp

from edge_llava.bundle.language_spec import LanguageSpec
from edge_llava.device.threads import usable_threads
from edge_llava.ggml.amx import has_amx
from edge_llava.ggml.devices import GgmlDevice, device_array
from edge_llava.ggml.gguf_header import GgufTensor
from edge_llava.ggml.repacking import is_read, is_repacking_worthwhile, rearranged_weights
from edge_llava.ggml.types import GgmlType
from edge_llava.ggml.weight_buffers import buffer_overrides
from edge_llava.runtime.options import DecoderOptions, n_ctx


def model_params(options: DecoderOptions, devices: Sequence[GgmlDevice], tensors: Mapping[str, GgufTensor]) -> Any:
    """llama.cpp's parameters of the weights.

    Args:
        options: Device settings.
        devices: As of `choose_devices`.
        tensors: Of the file, by name.
    """
    params = llama_cpp.llama_model_default_params()
    if options.devices is not None or not devices:  # otherwise llama.cpp finds them, and each GPU once
        params.devices = ctypes.addressof(device_array(tuple(device.name for device in devices)))
    if options.n_gpu_layers >= 0 or not devices:
        params.n_gpu_layers = options.n_gpu_layers if devices else 0
    if will_repack(options, tensors, on_cpu=not devices):
        _rearrange_weights(params, tensors)
        if is_read(tensors) and not devices:
            params.load_mode = llama_cpp.LLAMA_LOAD_MODE_NONE
    else:
        params.use_extra_bufts = False
    return params


def _rearrange_weights(params: Any, tensors: Mapping[str, GgufTensor]) -> None:
    """Has those rearranged that can be."""
    params.use_extra_bufts = not has_amx()  # llama.cpp would use AMX for whatever it can, even where it does not work
    if has_amx():
        params.tensor_buft_overrides = ctypes.addressof(buffer_overrides(tuple(rearranged_weights(tensors).items())))


def will_repack(options: DecoderOptions, tensors: Mapping[str, GgufTensor], *, on_cpu: bool) -> bool:
    """Whether weights of a file are rearranged where they can be; beside GPUs, a build with AMX leaves all in place.

    Args:
        options: Device settings.
        tensors: Of the file, by name.
        on_cpu: Whether nothing is computed on a GPU.
    """
    if has_amx() and not on_cpu:
        return False
    return is_repacking_worthwhile(tensors) if options.repack is None else options.repack


def context_params(spec: LanguageSpec, options: DecoderOptions, *, on_cpu: bool, n_parallel: int = 1) -> Any:
    """llama.cpp's parameters of a context, without its sizes; cache and attention of an F32 bundle keep it exact.

    Args:
        spec: Of the language model.
        options: Device settings.
        on_cpu: Whether nothing is computed on a GPU.
        n_parallel: Conversations at a time. Of several, plain attention would score every position of each for all
            others, in memory that grows with all of them together.
    """
    is_exact = spec.quant == "F32"
    kv_type = options.kv_type if options.kv_type != "auto" else ("f32" if is_exact else "f16")
    is_plain = (is_exact or (on_cpu and n_parallel == 1)) and kv_type != "q8_0"
    flash_attention = False if options.flash_attention is None and is_plain else options.flash_attention
    params = llama_cpp.llama_context_default_params()
    params.n_threads = params.n_threads_batch = usable_threads(options.n_threads)
    params.type_k = params.type_v = GgmlType[kv_type.upper()]
    params.flash_attn_type = -1 if flash_attention is None else int(flash_attention)  # -1: llama.cpp decides
    # without these, a GPU computes large batches of blocks that are not on it
    params.offload_kqv = params.op_offload = options.may_offload
    params.no_perf = True
    params.kv_unified = True
    return params


def set_sizes(params: Any, spec: LanguageSpec, options: DecoderOptions, n_parallel: int, n_cells: int | None) -> None:
    """Sets what decides how large a context is.

    Args:
        params: As of `context_params`.
        spec: Of the language model.
        options: Device settings; `n_ctx` is of one conversation.
        n_parallel: Conversations at a time; as many are remembered as run, and one sequence is for copies.
        n_cells: Positions of the KV cache, for all together; None: room for `n_parallel` full conversations.
    """
    params.n_seq_max = 2 * n_parallel + 1
    params.n_ctx = n_cells or n_parallel * n_ctx(spec, options)
    params.n_batch = params.n_ubatch = max(options.n_batch, params.n_seq_max)  # llama.cpp plans a token of each


def decisive_settings(weights: Any, context: Any) -> dict[str, int]:
    """Of the parameters of both, what decides which numbers are computed."""
    of_weights = {
        "n_gpu_layers": int(weights.n_gpu_layers),
        "repack": int(bool(weights.use_extra_bufts or weights.tensor_buft_overrides)),
    }
    names = ("type_k", "type_v", "flash_attn_type", "n_batch", "n_ubatch")
    return of_weights | {name: int(getattr(context, name)) for name in names}
