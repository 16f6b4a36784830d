"""What llama.cpp would take for a model and its context, by loading it without its weights."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import llama_cpp

from edge_llava.bundle.language_spec import LanguageSpec
from edge_llava.errors import BackendError
from edge_llava.runtime.language.language_model import prepare_load
from edge_llava.runtime.language.llama_log import first_error, heard_messages
from edge_llava.runtime.language.llama_params import context_params, set_sizes
from edge_llava.runtime.lifetime.work_thread import run_aside
from edge_llava.runtime.options import DecoderOptions

_CACHE = re.compile(r"^llama_kv_cache: size =\s*([\d.]+) MiB")
_BUFFER = re.compile(r"(\S+)\s+(?:compute|output) buffer size =\s*([\d.]+) MiB")
_HOST = re.compile(r"(?:CPU|_Host)\Z")  # a GPU's buffers that lie in main memory are called "Vulkan_Host"


@dataclass(frozen=True)
class DryRun:
    """What a context takes, in bytes.

    Attributes:
        cache_bytes: Keys and values of all positions and blocks.
        compute_bytes: Buffers to compute in, by the device's name; "CPU" for main memory.
    """

    cache_bytes: int
    compute_bytes: Mapping[str, int]


def dry_run(
    path: Path, spec: LanguageSpec, options: DecoderOptions, *, n_parallel: int = 1, n_cells: int | None = None
) -> DryRun:
    """Asks llama.cpp; takes a fifth of a second and some 50 MB, whatever the model's size.

    Args:
        path, spec, options, n_parallel, n_cells: As of a `Decoder`.

    Raises:
        BundleError: If the file is damaged or is not what the manifest says.
        BackendError: If llama.cpp cannot load it, or has no device that the options name.
    """
    devices, weights = prepare_load(path, spec, options)
    # only tensors that are not mapped can be left out, and none is rearranged
    weights.no_alloc, weights.load_mode = True, llama_cpp.LLAMA_LOAD_MODE_NONE
    weights.use_extra_bufts, weights.tensor_buft_overrides = False, None
    params = context_params(spec, options, on_cpu=not devices, n_parallel=n_parallel)
    set_sizes(params, spec, options, n_parallel, n_cells)
    with heard_messages() as heard:
        run_aside(lambda: _try_out(path, weights, params))
    cache = sum(_bytes(found[1]) for line in heard if (found := _CACHE.search(line)))
    compute = Counter[str]()
    for line in heard:
        for device, size in _BUFFER.findall(line):
            compute["CPU" if _HOST.search(device) else device] += _bytes(size)
    if not cache or not compute:
        raise BackendError(f"llama.cpp does not say what {path} takes: {first_error()}.")
    return DryRun(cache, dict(compute))


def _try_out(path: Path, weights: object, params: object) -> None:
    model = llama_cpp.llama_model_load_from_file(os.fsencode(path), weights)
    if not model:
        raise BackendError(f"llama.cpp cannot load {path}: {first_error().rstrip('.')}.")
    context = llama_cpp.llama_init_from_model(model, params)
    if context:
        llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)


def _bytes(mebibytes: str) -> int:
    return int(float(mebibytes) * (1 << 20))
