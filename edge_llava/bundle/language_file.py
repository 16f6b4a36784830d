"""Checks language.gguf against its manifest before llama.cpp opens it.

llama.cpp ends the process, without an error that could be caught, at several faults that a damaged header can hold:
a token that occurs twice, a byte without a token, a negative epsilon, an unknown RoPE scaling, experts in a model that
has none, norms that are not float32, heads of odd width, a token of type byte that does not name one. Each is looked
for here, those of the vocabulary in `vocabulary_check`. Every key is one that the converters write: llama.cpp acts
upon many others, and `split.count` makes it read further files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_llava.bundle.language_spec import LanguageSpec
from edge_llava.bundle.vocabulary_check import find_vocabulary_faults
from edge_llava.errors import BundleError, list_faults
from edge_llava.ggml.gguf_header import GgufHeader, read_gguf_header
from edge_llava.ggml.types import GgmlType

_ROPE_SCALINGS = ("none", "linear")
# Every key that may be there, with the type of its value; a list where it is an array. "*" is the architecture.
_KEYS: Mapping[str, type] = {
    "general.architecture": str, "general.type": str, "general.name": str, "general.file_type": int,
    "general.quantization_version": int, "general.alignment": int,
    "*.block_count": int, "*.context_length": int, "*.embedding_length": int,
    "*.feed_forward_length": int, "*.vocab_size": int,
    "*.attention.head_count": int, "*.attention.head_count_kv": int, "*.attention.key_length": int,
    "*.attention.value_length": int, "*.attention.layer_norm_rms_epsilon": float,
    "*.rope.freq_base": float, "*.rope.dimension_count": int, "*.rope.scaling.type": str,
    "*.rope.scaling.factor": float,
    "tokenizer.ggml.model": str, "tokenizer.ggml.pre": str, "tokenizer.ggml.tokens": list,
    "tokenizer.ggml.scores": list, "tokenizer.ggml.merges": list, "tokenizer.ggml.token_type": list,
    "tokenizer.ggml.bos_token_id": int, "tokenizer.ggml.eos_token_id": int,
    "tokenizer.ggml.unknown_token_id": int, "tokenizer.ggml.padding_token_id": int,
    "tokenizer.ggml.add_bos_token": bool, "tokenizer.ggml.add_eos_token": bool,
    "tokenizer.ggml.add_space_prefix": bool,
}  # fmt: skip


@dataclass(frozen=True)
class _Architecture:
    """What the file of one of `language_spec.ARCHITECTURES` holds.

    Attributes:
        name: For messages.
        has_qkv_bias: Whether the projections to queries, keys and values add a bias.
        has_rope_divisors: Whether frequencies may be divided by `rope_freqs.weight`.
    """

    name: str
    has_qkv_bias: bool
    has_rope_divisors: bool


_ARCHITECTURES: Mapping[str, _Architecture] = {
    "llama": _Architecture("LLaMA", has_qkv_bias=False, has_rope_divisors=True),
    "qwen2": _Architecture("Qwen2", has_qkv_bias=True, has_rope_divisors=False),
}


def check_language_file(path: Path, spec: LanguageSpec) -> GgufHeader:
    """Reads the header of language.gguf and compares it with the manifest.

    Returns:
        The header.

    Raises:
        BundleError: If the file is damaged, or is not the model that the manifest describes; all faults at once.
    """
    header = read_gguf_header(path)
    faults = [
        *_key_faults(header, spec),
        *_metadata_faults(header, spec),
        *find_vocabulary_faults(header, spec),
        *_tensor_faults(header, spec),
    ]
    if faults:
        raise BundleError(list_faults(f"{path} does not match its manifest:", faults, "Convert the checkpoint again."))
    return header


def _metadata_faults(header: GgufHeader, spec: LanguageSpec) -> Iterator[str]:
    model = spec.architecture
    expected = {
        "general.architecture": model,
        f"{model}.block_count": spec.n_layer,
        f"{model}.context_length": spec.n_ctx_train,
        f"{model}.embedding_length": spec.n_embd,
        f"{model}.attention.head_count": spec.n_head,
        f"{model}.attention.head_count_kv": spec.n_head_kv,
    }
    found = {key: header.metadata.get(key) for key in expected}
    yield from (
        f"{key} is {_shown(found[key])}, expected {value!r}" for key, value in expected.items() if found[key] != value
    )
    epsilon = header.metadata.get(f"{model}.attention.layer_norm_rms_epsilon")
    if not isinstance(epsilon, float) or not 0 <= epsilon < 1:
        yield f"{model}.attention.layer_norm_rms_epsilon is {_shown(epsilon)}, expected a number from 0 to 1"
    scaling = header.metadata.get(f"{model}.rope.scaling.type", "none")
    if scaling not in _ROPE_SCALINGS:
        yield f"{model}.rope.scaling.type is {_shown(scaling)}, expected one of {', '.join(_ROPE_SCALINGS)}"
    for key in (f"{model}.rope.freq_base", f"{model}.rope.scaling.factor"):
        number = header.metadata.get(key, 1.0)
        if not isinstance(number, float) or not 0 < number < float("inf"):
            yield f"{key} is {_shown(number)}, expected a number above 0"
    width = _head_width(header, spec)
    if width < 2 or width % 2:
        yield f"heads have the width {width}, expected an even one"
    for key in (f"{model}.attention.value_length", f"{model}.rope.dimension_count"):
        if header.metadata.get(key, width) != width:
            yield f"{key} is {_shown(header.metadata[key])}, expected the heads' width, {width}"
    n_vocab = header.metadata.get(f"{model}.vocab_size", spec.n_vocab)
    if n_vocab != spec.n_vocab:
        yield f"{model}.vocab_size is {_shown(n_vocab)}, expected {spec.n_vocab}"


def _key_faults(header: GgufHeader, spec: LanguageSpec) -> Iterator[str]:
    kinds = {key.replace("*", spec.architecture): kind for key, kind in _KEYS.items()}
    name = _ARCHITECTURES[spec.architecture].name
    for key in (*header.metadata, *header.arrays):
        kind = type(header.metadata[key]) if key in header.metadata else list
        if key not in kinds:
            yield f"{key!r} is not part of a {name} model's description"
        elif kind is not kinds[key]:
            yield f"{key} is of the type {kind.__name__}, expected {kinds[key].__name__}"


def _head_width(header: GgufHeader, spec: LanguageSpec) -> int:
    width = header.metadata.get(f"{spec.architecture}.attention.key_length", spec.n_embd // spec.n_head)
    return width if isinstance(width, int) else 0


def _shown(value: object) -> str:
    return repr(value)[:80]


def _tensor_faults(header: GgufHeader, spec: LanguageSpec) -> Iterator[str]:
    expected = _expected_shapes(header, spec)
    for name, shape in expected.items():
        tensor = header.tensors.get(name)
        if tensor is None:
            yield f"tensor {name} is missing"
        elif tensor.shape != shape:
            yield f"tensor {name} has shape {tensor.shape}, expected {shape}"
    architecture = _ARCHITECTURES[spec.architecture]
    optional = {"output.weight": expected["token_embd.weight"]}  # absent where the embedding is also the head
    if architecture.has_rope_divisors:
        optional["rope_freqs.weight"] = (_head_width(header, spec) // 2,)
    for name, shape in optional.items():
        tensor = header.tensors.get(name)
        if tensor is not None and tensor.shape != shape:
            yield f"tensor {name} has shape {tensor.shape}, expected {shape}"
    for name, tensor in header.tensors.items():
        if name not in expected and name not in optional:
            yield f"tensor {name!r} is not part of a {architecture.name} model"
        elif len(tensor.shape) == 1 and tensor.type_id != GgmlType.F32:
            yield f"tensor {name} is not float32"


def _expected_shapes(header: GgufHeader, spec: LanguageSpec) -> dict[str, tuple[int, ...]]:
    """Shapes, fastest axis first, of every tensor that must be there."""
    n_ff = header.metadata.get(f"{spec.architecture}.feed_forward_length", 0)
    if not isinstance(n_ff, int):
        n_ff = 0
    head_width = _head_width(header, spec)
    n_query, n_key = spec.n_head * head_width, spec.n_head_kv * head_width
    block: dict[str, tuple[int, ...]] = {
        "attn_norm.weight": (spec.n_embd,),
        "attn_q.weight": (spec.n_embd, n_query),
        "attn_k.weight": (spec.n_embd, n_key),
        "attn_v.weight": (spec.n_embd, n_key),
        "attn_output.weight": (n_query, spec.n_embd),
        "ffn_norm.weight": (spec.n_embd,),
        "ffn_gate.weight": (spec.n_embd, n_ff),
        "ffn_up.weight": (spec.n_embd, n_ff),
        "ffn_down.weight": (n_ff, spec.n_embd),
    }
    if _ARCHITECTURES[spec.architecture].has_qkv_bias:
        block |= {"attn_q.bias": (n_query,), "attn_k.bias": (n_key,), "attn_v.bias": (n_key,)}
    shapes = {"token_embd.weight": (spec.n_embd, spec.n_vocab), "output_norm.weight": (spec.n_embd,)}
    for layer in range(spec.n_layer):
        shapes |= {f"blk.{layer}.{part}": shape for part, shape in block.items()}
    return shapes
