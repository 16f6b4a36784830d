"""What a bundle will take, before anything of it is loaded."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from edge_llava.bundle.bundle import Bundle
from edge_llava.bundle.language_spec import LanguageSpec
from edge_llava.bundle.vision_spec import VisionSpec, count_squares
from edge_llava.fitting.needs import MAIN, MemoryNeeds, Part
from edge_llava.ggml.devices import GgmlDevice, choose_devices, list_devices
from edge_llava.ggml.gguf_header import GgufTensor, read_gguf_header
from edge_llava.ggml.repacking import is_read, rearranged_weights, repacked_bytes
from edge_llava.ggml.types import GgmlType
from edge_llava.runtime.engine.kv_size import first_positions
from edge_llava.runtime.language.dry_run import DryRun, dry_run
from edge_llava.runtime.language.llama_params import context_params, will_repack
from edge_llava.runtime.options import DecoderOptions, EngineOptions, n_ctx
from edge_llava.runtime.vision.forms import image_forms
from edge_llava.runtime.vision.image_encoder import tiles_at_once

_PROGRAMS = 100_000_000  # Python, its packages and both engines without a model: measured, in bytes
_COPIED = {"fp32": 1.15, "fp16": 2.2, "int8": 1.0}  # of a tower's weights as ONNX Runtime rearranges them: measured
_HEAD_WIDTH = 64  # of most towers; SigLIP's are 72 wide, for which this is 12 % too much
_WIDENING = 4  # a tower's block's inner width over its outer one
_MOST_WIDENING = 6  # a language model's; LLaMA's is below 3, Qwen2's 0.5B 5.4
_BYTES = 4  # float32
_ARENA = 1.6  # ONNX Runtime's, over what is in use at a time: measured with a SigLIP, one and four squares at a time
_COPIES = 4  # of an image's rows, while its tiles are put together: measured with 5 and 31


def predict_needs(bundle: Bundle, options: EngineOptions) -> MemoryNeeds:
    """Adds up what answering about an image takes: llama.cpp is asked, the rest is computed from sizes and shapes.

    Args:
        bundle: Not loaded.
        options: How it would be.

    Raises:
        BundleError: If language.gguf is damaged.
        BackendError: If llama.cpp cannot tell, or has no device that the options name.
    """
    return _predict(bundle, options, _whole_size(bundle, options))


def _predict(bundle: Bundle, options: EngineOptions, n_cells: int) -> MemoryNeeds:
    return MemoryNeeds((*_language(bundle, options, n_cells), *_vision(bundle, options), Part("programs", _PROGRAMS)))


def _whole_size(bundle: Bundle, options: EngineOptions) -> int:
    return options.n_positions or options.parallel * n_ctx(bundle.manifest.language, options.decoder)


def _first_size(bundle: Bundle, options: EngineOptions) -> int:
    return max(first_positions(bundle.manifest, options), options.decoder.n_batch)


def predict_first_needs(bundle: Bundle, options: EngineOptions) -> MemoryNeeds:
    """As `predict_needs`, before the KV cache has grown: of one answer about one image."""
    return _predict(bundle, options, min(_first_size(bundle, options), _whole_size(bundle, options)))


def _copied_share(bundle: Bundle, options: EngineOptions, n_cells: int) -> float:
    """The part of a KV cache that is copied while it grows to its size; 0: it has that from the start."""
    before = _first_size(bundle, options)
    if before >= n_cells:
        return 0.0
    while 2 * before < n_cells:
        before *= 2
    return before / n_cells


def predict_language_needs(bundle: Bundle, options: EngineOptions) -> MemoryNeeds:
    """As `predict_needs`, of a process that opens the language model alone."""
    needs = _language(bundle, options, _whole_size(bundle, options))
    return MemoryNeeds((*needs, Part("programs", _PROGRAMS)))


def predict_tower_needs(bundle: Bundle, options: EngineOptions) -> MemoryNeeds:
    """As `predict_needs`, of a process that only encodes images."""
    return MemoryNeeds((*_vision(bundle, options), Part("programs", _PROGRAMS)))


def _language(bundle: Bundle, options: EngineOptions, n_cells: int) -> Iterator[Part]:
    decoder = replace(options.decoder, repack=True)  # which changes nothing of a context
    tried = _try(bundle.file("language"), bundle.manifest.language, decoder, options.parallel, n_cells)
    yield from _weights(_tensors(bundle.file("language")), bundle, options)
    yield from _cache(tried.cache_bytes, bundle, options, n_cells)
    yield from _compute(tried.compute_bytes, bundle, options)


@functools.lru_cache(maxsize=32)
def _try(path: Path, spec: LanguageSpec, decoder: DecoderOptions, n_parallel: int, n_cells: int) -> DryRun:
    return dry_run(path, spec, decoder, n_parallel=n_parallel, n_cells=n_cells)


@functools.lru_cache(maxsize=1)
def _tensors(path: Path) -> Mapping[str, GgufTensor]:
    return read_gguf_header(path).tensors


def estimate_needs(
    bundle: Bundle, options: EngineOptions, tensors: Mapping[str, GgufTensor] | None = None
) -> MemoryNeeds:
    """As `predict_needs`, at once: from the manifest alone, for the CPU, and rather too much than too little.

    Args:
        bundle: Its files need not exist.
        options: How it would be loaded.
        tensors: Of the language model, by name; None: any may be rearranged.
    """
    language, decoder = bundle.manifest.language, options.decoder
    size = bundle.manifest.files["language"].bytes
    cells = _whole_size(bundle, options)
    params = context_params(language, decoder, on_cpu=True, n_parallel=options.parallel)
    width = -(-language.n_embd // language.n_head) * language.n_head_kv
    block, block_bytes = _CACHE_BLOCKS[params.type_k]
    cache = cells * language.n_layer * 2 * width // block * block_bytes
    is_plain = params.flash_attn_type == 0
    compute = _used_bytes(language, decoder, cells, _MOST_WIDENING * language.n_embd, is_plain=is_plain)
    return MemoryNeeds(
        (
            *_estimate_weights(size, tensors, decoder),
            Part("KV cache", cache),
            Part("growth of the KV cache", int(_copied_share(bundle, options, cells) * cache)),
            Part("compute buffers", compute),
            *_vision(bundle, options),
            Part("programs", _PROGRAMS),
        )
    )


def _estimate_weights(size: int, tensors: Mapping[str, GgufTensor] | None, decoder: DecoderOptions) -> Iterator[Part]:
    if tensors is not None and will_repack(decoder, tensors, on_cpu=True):
        yield from _rearranged(size, tensors)
        return
    yield Part("weights", size, is_mapped=True)
    if tensors is None and decoder.repack is not False:
        yield Part("rearranged weights", size)


def _rearranged(size: int, tensors: Mapping[str, GgufTensor]) -> Iterator[Part]:
    """The weights of a file of so many bytes, all on the CPU, of which some are rearranged."""
    if is_read(tensors):
        yield Part("weights", size - _size({name: tensors[name] for name in rearranged_weights(tensors)}))
    else:
        yield Part("weights", size, is_mapped=True)
    yield Part("rearranged weights", repacked_bytes(tensors))


_CACHE_BLOCKS: Mapping[int, tuple[int, int]] = {GgmlType.F32: (1, 4), GgmlType.F16: (1, 2), GgmlType.Q8_0: (32, 34)}


def used_devices(options: EngineOptions) -> tuple[GgmlDevice, ...]:
    """The GPUs that these options put blocks on.

    Raises:
        BackendError: If llama.cpp has no device that the options name.
    """
    decoder = options.decoder
    present = list_devices() if decoder.may_offload else ()
    return choose_devices(present, decoder.devices, decoder.n_gpu_layers)


def _weights(tensors: Mapping[str, GgufTensor], bundle: Bundle, options: EngineOptions) -> Iterator[Part]:
    """Those of the last blocks, and the head, are on the GPUs; the embedding never is.

    Source: llama_model::load_tensors.
    """
    devices, n_layer = used_devices(options), bundle.manifest.language.n_layer
    first = _first_on_gpu(n_layer, options.decoder.n_gpu_layers) if devices else n_layer + 1
    on_gpu = {name: tensor for name, tensor in tensors.items() if _layer(name, n_layer) >= first}
    if devices and first <= n_layer and "output.weight" not in tensors:  # a tied head is copied
        on_gpu["output.weight"] = tensors["token_embd.weight"]
    on_cpu = {name: tensor for name, tensor in tensors.items() if name not in on_gpu}
    whole = bundle.manifest.files["language"].bytes
    will_rearrange = will_repack(options.decoder, tensors, on_cpu=not devices)
    if will_rearrange and not devices:
        yield from _rearranged(whole, tensors)
        return
    yield Part("weights", _size(on_cpu) if on_gpu else whole, is_mapped=True)
    if will_rearrange:
        yield Part("rearranged weights", repacked_bytes(on_cpu))
    for device, share in _shares(devices).items():
        yield Part("weights", int(_size(on_gpu) * share), device)


def _first_on_gpu(n_layer: int, n_gpu_layers: int) -> int:
    """The first block that is on a GPU; `n_layer` is the head."""
    return max(0, n_layer + 1 - n_gpu_layers) if n_gpu_layers >= 0 else 0


def _layer(name: str, n_layer: int) -> int:
    """The block that a tensor belongs to; `n_layer` for the head, -1 for the embedding."""
    if name.startswith("blk."):
        return int(name.split(".")[1])
    return -1 if name == "token_embd.weight" else n_layer


def _size(tensors: Mapping[str, GgufTensor]) -> int:
    return sum(tensor.n_bytes for tensor in tensors.values())


def _compute(sizes: Mapping[str, int], bundle: Bundle, options: EngineOptions) -> Iterator[Part]:
    """On a GPU, whole buffers; in main memory, the pages that are used: not those for the logits of a whole batch."""
    language, n_ff = bundle.manifest.language, _tensors(bundle.file("language"))["blk.0.ffn_up.weight"].shape[1]
    cells = options.n_positions or options.parallel * n_ctx(language, options.decoder)
    params = context_params(language, options.decoder, on_cpu=not used_devices(options), n_parallel=options.parallel)
    used = _used_bytes(language, options.decoder, cells, n_ff, is_plain=params.flash_attn_type == 0)
    for device, size in sizes.items():
        in_main = device == "CPU"
        yield Part("compute buffers", min(size, used) if in_main else size, MAIN if in_main else device)


def _used_bytes(language: LanguageSpec, decoder: DecoderOptions, cells: int, n_ff: int, *, is_plain: bool) -> int:
    """What llama.cpp computes a batch in: rows of both widths, the mask, and plain attention's scores of all heads."""
    mask = cells if is_plain else cells // 2  # in half precision
    scores = language.n_head * cells if is_plain else 0
    return decoder.n_batch * _BYTES * (4 * language.n_embd + 3 * n_ff + mask + scores) + _BYTES * language.n_vocab


def _cache(n_bytes: int, bundle: Bundle, options: EngineOptions, n_cells: int) -> Iterator[Part]:
    devices, n_layer = used_devices(options), bundle.manifest.language.n_layer
    n_on_gpu = n_layer - min(n_layer, _first_on_gpu(n_layer, options.decoder.n_gpu_layers)) if devices else 0
    on_gpu = n_bytes * n_on_gpu // n_layer
    yield Part("KV cache", n_bytes - on_gpu)
    yield Part("growth of the KV cache", int(_copied_share(bundle, options, n_cells) * n_bytes))  # a copy, for a moment
    for device, share in _shares(devices).items():
        yield Part("KV cache", int(on_gpu * share), device)


def _shares(devices: Sequence[GgmlDevice]) -> dict[str, float]:
    """What each of several GPUs gets: llama.cpp splits by their free memory, evenly where it is not known."""
    free = {device.name: device.free_bytes for device in devices}
    if not all(free.values()):
        return dict.fromkeys(free, 1 / len(free)) if free else {}
    return {name: size / sum(free.values()) for name, size in free.items()}


def _vision(bundle: Bundle, options: EngineOptions) -> Iterator[Part]:
    """Tower and projector, on the CPU, and what the tower computes in: of an image of the most squares."""
    files, spec = bundle.manifest.files, bundle.manifest.vision
    stored = sum(files[role].bytes for role in ("vision", "vision_data") if role in files)
    if options.low_memory:
        yield Part("vision tower", stored, is_mapped=True)
    else:
        yield Part("vision tower", int(_COPIED[spec.precision] * stored))
    yield Part("projector", files["projector"].bytes)
    form = image_forms(spec, options).alone
    n_squares = max((count_squares(canvas, form.image_size) for canvas in form.canvases), default=1)
    yield Part("activations", _activations(form, min(n_squares, tiles_at_once(options, on_gpu=False))))
    rows = n_squares * form.n_features * bundle.manifest.language.n_embd * _BYTES
    yield Part("image", _COPIES * rows)


def _activations(form: VisionSpec, n_squares: int) -> int:
    """What a block computes in at a time: the attention of all heads twice, and rows of its inner width, in float32."""
    rows, width = form.grid_side**2 + form.has_class_row, form.hidden_size
    attention = 2 * (width // _HEAD_WIDTH) * rows**2
    return int(_ARENA * n_squares * _BYTES * (attention + rows * width * (2 * _WIDENING + 6)))
