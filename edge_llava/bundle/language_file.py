"""Checks language.gguf against its manifest before llama.cpp opens it.

llama.cpp ends the process, without an error that could be caught, at several faults that a damaged header can hold:
a token that occurs twice, a byte without a token, a negative epsilon, an unknown RoPE scaling, experts in a model that
has none, norms that are not float32, heads of odd width, a token of type byte that does not name one. Each is looked
for here, those of the vocabulary in `vocabulary_check`. Every key is one that the converters write: llama.cpp acts
upon many others, and `split.count` makes it read further files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from edge_llava.bundle.language_spec import LanguageSpec
from edge_llava.bundle.vocabulary_check import find_vocabulary_faults
from edge_llava.errors import BundleError, list_faults
from edge_llava.ggml.gguf_header import GgufHeader, read_gguf_header
from edge_llava.ggml.types import GgmlType

_ROPE_SCALINGS = ("none", "linear")
# Every key that may be there, with the type of its value; a list where it is an array.
_KEYS: Mapping[str, type] = {
    "general.architecture": str, "general.type": str, "general.name": str, "general.file_type": int,
    "general.quantization_version": int, "general.alignment": int,
    "llama.block_count": int, "llama.context_length": int, "llama.embedding_length": int,
    "llama.feed_forward_length": int, "llama.vocab_size": int,
    "llama.attention.head_count": int, "llama.attention.head_count_kv": int, "llama.attention.key_length": int,
    "llama.attention.value_length": int, "llama.attention.layer_norm_rms_epsilon": float,
    "llama.rope.freq_base": float, "llama.rope.dimension_count": int, "llama.rope.scaling.type": str,
    "llama.rope.scaling.factor": float,
    "tokenizer.ggml.model": str, "tokenizer.ggml.pre": str, "tokenizer.ggml.tokens": list,
    "tokenizer.ggml.scores": list, "tokenizer.ggml.merges": list, "tokenizer.ggml.token_type": list,
    "tokenizer.ggml.bos_token_id": int, "tokenizer.ggml.eos_token_id": int,
    "tokenizer.ggml.unknown_token_id": int, "tokenizer.ggml.padding_token_id": int,
    "tokenizer.ggml.add_bos_token": bool, "tokenizer.ggml.add_eos_token": bool,
    "tokenizer.ggml.add_space_prefix": bool,
}  # fmt: skip


def check_language_file(path: Path, spec: LanguageSpec) -> None:
    """Reads the header of language.gguf and compares it with the manifest.

    Raises:
        BundleError: If the file is damaged, or is not the model that the manifest describes; all faults at once.
    """
    header = read_gguf_header(path)
    faults = [
        *_key_faults(header),
        *_metadata_faults(header, spec),
        *find_vocabulary_faults(header, spec),
        *_tensor_faults(header, spec),
    ]
    if faults:
        raise BundleError(list_faults(f"{path} does not match its manifest:", faults, "Convert the checkpoint again."))


def _metadata_faults(header: GgufHeader, spec: LanguageSpec) -> Iterator[str]:
    expected = {
        "general.architecture": "llama",
        "llama.block_count": spec.n_layer,
        "llama.context_length": spec.n_ctx_train,
        "llama.embedding_length": spec.n_embd,
        "llama.attention.head_count": spec.n_head,
        "llama.attention.head_count_kv": spec.n_head_kv,
    }
    found = {key: header.metadata.get(key) for key in expected}
    yield from (
        f"{key} is {_shown(found[key])}, expected {value!r}" for key, value in expected.items() if found[key] != value
    )
    epsilon = header.metadata.get("llama.attention.layer_norm_rms_epsilon")
    if not isinstance(epsilon, float) or not 0 <= epsilon < 1:
        yield f"llama.attention.layer_norm_rms_epsilon is {_shown(epsilon)}, expected a number from 0 to 1"
    scaling = header.metadata.get("llama.rope.scaling.type", "none")
    if scaling not in _ROPE_SCALINGS:
        yield f"llama.rope.scaling.type is {_shown(scaling)}, expected one of {', '.join(_ROPE_SCALINGS)}"
    for key in ("llama.rope.freq_base", "llama.rope.scaling.factor"):
        number = header.metadata.get(key, 1.0)
        if not isinstance(number, float) or not 0 < number < float("inf"):
            yield f"{key} is {_shown(number)}, expected a number above 0"
    width = _head_width(header, spec)
    if width < 2 or width % 2:
        yield f"heads have the width {width}, expected an even one"
    for key in ("llama.attention.value_length", "llama.rope.dimension_count"):
        if header.metadata.get(key, width) != width:
            yield f"{key} is {_shown(header.metadata[key])}, expected the heads' width, {width}"
    if header.metadata.get("llama.vocab_size", spec.n_vocab) != spec.n_vocab:
        yield f"llama.vocab_size is {_shown(header.metadata['llama.vocab_size'])}, expected {spec.n_vocab}"


def _key_faults(header: GgufHeader) -> Iterator[str]:
    for key in (*header.metadata, *header.arrays):
        kind = type(header.metadata[key]) if key in header.metadata else list
        if key not in _KEYS:
            yield f"{key!r} is not part of a LLaMA model's description"
        elif kind is not _KEYS[key]:
            yield f"{key} is of the type {kind.__name__}, expected {_KEYS[key].__name__}"


def _head_width(header: GgufHeader, spec: LanguageSpec) -> int:
    width = header.metadata.get("llama.attention.key_length", spec.n_embd // spec.n_head)
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
    head = header.tensors.get("output.weight")  # absent where the embedding is also the head
    if head is not None and head.shape != expected["token_embd.weight"]:
        yield f"tensor output.weight has shape {head.shape}, expected {expected['token_embd.weight']}"
    for name, tensor in header.tensors.items():
        if name not in expected and name != "output.weight":
            yield f"tensor {name!r} is not part of a LLaMA model"
        elif len(tensor.shape) == 1 and tensor.type_id != GgmlType.F32:
            yield f"tensor {name} is not float32"


def _expected_shapes(header: GgufHeader, spec: LanguageSpec) -> dict[str, tuple[int, ...]]:
    """Shapes, fastest axis first, of every tensor that must be there."""
    n_ff = header.metadata.get("llama.feed_forward_length", 0)
    if not isinstance(n_ff, int):
        n_ff = 0
    head_width = _head_width(header, spec)
    n_query, n_key = spec.n_head * head_width, spec.n_head_kv * head_width
    block: dict[str, tuple[int, ...]] = {
        "attn_norm": (spec.n_embd,),
        "attn_q": (spec.n_embd, n_query),
        "attn_k": (spec.n_embd, n_key),
        "attn_v": (spec.n_embd, n_key),
        "attn_output": (n_query, spec.n_embd),
        "ffn_norm": (spec.n_embd,),
        "ffn_gate": (spec.n_embd, n_ff),
        "ffn_up": (spec.n_embd, n_ff),
        "ffn_down": (n_ff, spec.n_embd),
    }
    shapes = {"token_embd.weight": (spec.n_embd, spec.n_vocab), "output_norm.weight": (spec.n_embd,)}
    for layer in range(spec.n_layer):
        shapes |= {f"blk.{layer}.{part}.weight": shape for part, shape in block.items()}
    return shapes
