"""Checks language.gguf against its manifest before llama.cpp opens it.

llama.cpp ends the process, without an error that could be caught, at several faults that a damaged header can hold:
a token that occurs twice, a byte without a token, a negative epsilon, an unknown RoPE scaling, experts in a model that
has none, norms that are not float32. Each is looked for here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edge_llava.errors import BundleError, list_faults
from edge_llava.gguf_check import GgufHeader, read_gguf_header
from edge_llava.manifest import LanguageSpec

_INT32, _FLOAT32, _STRING = 5, 6, 8
_VOCABULARY_TYPES = {"tokens": _STRING, "scores": _FLOAT32, "token_type": _INT32}
_BYTE_TOKENS = frozenset(b"<0x%02X>" % byte for byte in range(256))
_ROPE_SCALINGS = ("none", "linear")
# What llama.cpp acts upon is known here, or the file is refused.
_KNOWN_KEYS = frozenset(
    f"llama.{key}"
    for key in (
        "block_count", "context_length", "embedding_length", "feed_forward_length", "vocab_size",
        "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length",
        "attention.layer_norm_rms_epsilon", "rope.freq_base", "rope.dimension_count", "rope.scaling.type",
        "rope.scaling.factor",
    )
)  # fmt: skip
_F32 = 0  # ggml's type of a tensor


def check_language_file(path: Path, spec: LanguageSpec) -> None:
    """Reads the header of language.gguf and compares it with the manifest.

    Raises:
        BundleError: If the file is damaged, or is not the model that the manifest describes; all faults at once.
    """
    header = read_gguf_header(path)
    faults = [*_metadata_faults(header, spec), *_vocabulary_faults(header, spec), *_tensor_faults(header, spec)]
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
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.bos_token_id": spec.bos,
        "tokenizer.ggml.eos_token_id": spec.eos,
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
    keys = (key for key in (*header.metadata, *header.arrays) if key.startswith("llama."))
    yield from (f"{key!r} is not part of a LLaMA model's description" for key in keys if key not in _KNOWN_KEYS)


def _shown(value: object) -> str:
    return repr(value)[:80]


def _vocabulary_faults(header: GgufHeader, spec: LanguageSpec) -> Iterator[str]:
    for key, type_id in _VOCABULARY_TYPES.items():
        array = header.arrays.get(f"tokenizer.ggml.{key}")
        if array is None or array.length != spec.n_vocab:
            n_items = 0 if array is None else array.length
            yield f"tokenizer.ggml.{key} has {n_items} items, expected {spec.n_vocab}"
        elif array.type_id != type_id:
            yield f"tokenizer.ggml.{key} has items of type {array.type_id}, expected {type_id}"
        elif key == "tokens":
            # as llama.cpp reads them: up to the first zero, and every empty one gets a name of its own
            texts = [text.split(b"\0")[0] or b"[EMPTY_%d]" % i for i, text in enumerate(array.strings)]
            if len(set(texts)) != len(texts):
                yield f"tokenizer.ggml.tokens holds {len(texts) - len(set(texts))} tokens twice"
            if not _BYTE_TOKENS.issubset(texts):
                yield f"tokenizer.ggml.tokens lacks {len(_BYTE_TOKENS - set(texts))} of the 256 byte tokens"


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
        elif len(tensor.shape) == 1 and tensor.type_id != _F32:
            yield f"tensor {name} is not float32"


def _expected_shapes(header: GgufHeader, spec: LanguageSpec) -> dict[str, tuple[int, ...]]:
    """Shapes, fastest axis first, of every tensor that must be there."""
    n_ff = header.metadata.get("llama.feed_forward_length", 0)
    head_width = header.metadata.get("llama.attention.key_length", spec.n_embd // spec.n_head)
    if not isinstance(n_ff, int) or not isinstance(head_width, int):
        n_ff = head_width = 0
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
