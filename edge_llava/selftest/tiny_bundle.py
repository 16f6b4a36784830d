"""A whole bundle of 300 kB, made on the spot, whose every number numpy can compute: it answers "ok" to everything.

Its tower doubles the pixels, its projector is a small one, and its language model says after each token the one that a
table names: its blocks add nothing, so that an answer depends on the last token alone. It is there to find out whether
the engines are found and compute, and not whether they compute well.
"""

from __future__ import annotations

import base64
import itertools
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_llava.bundle.bundle import Bundle, describe_file
from edge_llava.bundle.manifest import FORMAT_VERSION, LanguageSpec, Manifest, ProjectorSpec, SourceInfo
from edge_llava.bundle.parity_record import PIXEL_STRIDE, PROMPT_AFTER, PROMPT_BEFORE, ParityRecord
from edge_llava.bundle.vision_spec import VisionSpec
from edge_llava.home.directories import MANIFEST_NAME
from edge_llava.selftest.gguf_writer import GgufValue, write_gguf

ANSWER = "ok"

# patch_features = x + x of x = pixel_values (B, 3, 8, 8) reshaped to (B, 4, 48); written by the package `onnx`
_TOWER = base64.b64decode(
    "CAgSCmVkZ2UtbGxhdmE6uQEKJAoMcGl4ZWxfdmFsdWVzCgVzaGFwZRIEcm93cyIHUmVzaGFwZQohCgRyb3dzCgRyb3dzEg5wYXRjaF9mZWF0dXJl"
    "cyIDQWRkEgR0aW55KhAIAxAHOgMABDBCBXNoYXBlWisKDHBpeGVsX3ZhbHVlcxIbChkIARIVCgcSBWJhdGNoCgIIAwoCCAgKAggIYikKDnBhdGNo"
    "X2ZlYXR1cmVzEhcKFQgBEhEKBxIFYmF0Y2gKAggECgIIMEIECgAQEQ=="
)
_SIDE, _N_PATCHES, _N_FEATURES, _N_EMBD, _N_FF, _N_TOKENS = 8, 4, 48, 64, 96, 8
_UNKNOWN, _BOS, _EOS, _FIRST_BYTE = 0, 1, 2, 3
_SPACE = _FIRST_BYTE + 256
_TYPES = [2, 3, 3, *[6] * 256, 1]  # llama.cpp's: unknown, control, byte, normal
_EPSILON = 1e-5


def write_tiny_bundle(directory: Path) -> Bundle:
    """Writes the bundle into an empty directory."""
    random = np.random.default_rng(0)
    projector = {
        "mm.0.weight": _normal(random, _N_EMBD, _N_FEATURES),
        "mm.0.bias": _normal(random, _N_EMBD),
        "mm.2.weight": _normal(random, _N_EMBD, _N_EMBD),
        "mm.2.bias": _normal(random, _N_EMBD),
    }
    language = _language_tensors(random)
    (directory / "vision.onnx").write_bytes(_TOWER)
    write_gguf(directory / "projector.gguf", {"general.architecture": "clip"}, projector)
    write_gguf(directory / "language.gguf", _language_metadata(), language)
    _make_record(random, projector, language).save(directory / "parity.safetensors")
    names = {"vision": "vision.onnx", "projector": "projector.gguf", "language": "language.gguf"}
    names["parity"] = "parity.safetensors"
    files = {role: describe_file(directory / name, directory) for role, name in names.items()}
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        created_by="edge-llava-selftest",
        source=SourceInfo("tiny", None, "hf", ()),
        vision=_vision_spec(),
        projector=ProjectorSpec("mlp2x_gelu", _N_FEATURES, _N_EMBD, "F32"),
        language=_language_spec(),
        files=files,
        parity={},
    )
    (directory / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
    return Bundle.open(directory)


def _vision_spec() -> VisionSpec:
    return VisionSpec(
        image_size=_SIDE,
        patch_size=_SIDE // 2,
        hidden_size=_N_FEATURES,
        feature_layer=-2,
        drop_cls=True,
        image_mean=(0.0, 0.0, 0.0),
        image_std=(1.0, 1.0, 1.0),
        aspect="pad",
        grid_pinpoints=(),
        merge="flat",
        has_newline=False,
        precision="fp32",
    )


def _language_spec() -> LanguageSpec:
    return LanguageSpec(
        n_embd=_N_EMBD,
        n_layer=1,
        n_head=4,
        n_head_kv=4,
        n_vocab=len(_TYPES),
        n_ctx_train=512,
        quant="F32",
        template="llava_v1",
        image_marks=False,
        bos=_BOS,
        eos=_EOS,
    )


def _language_metadata() -> dict[str, GgufValue]:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581"]
    return {
        "general.architecture": "llama",
        "llama.block_count": 1,
        "llama.context_length": 512,
        "llama.embedding_length": _N_EMBD,
        "llama.feed_forward_length": _N_FF,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 4,
        "llama.attention.layer_norm_rms_epsilon": _EPSILON,
        "llama.rope.dimension_count": _N_EMBD // 4,
        "llama.vocab_size": len(tokens),
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * len(tokens),
        "tokenizer.ggml.token_type": _TYPES,
        "tokenizer.ggml.bos_token_id": _BOS,
        "tokenizer.ggml.eos_token_id": _EOS,
        "tokenizer.ggml.unknown_token_id": _UNKNOWN,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_space_prefix": True,
    }


def _successors() -> dict[int, int]:
    """Which token follows which: ":", with which every prompt ends, begins the answer."""
    path = [*(_FIRST_BYTE + byte for byte in f":{ANSWER}".encode()), _EOS]
    return dict(itertools.pairwise(path)) | {_EOS: path[1]}


def _language_tensors(random: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    """Rows of unit length: a token's own row is nearest to itself, and the head's row of its successor is the same."""
    rows = _normal(random, len(_TYPES), _N_EMBD)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    head = np.zeros_like(rows)
    for token, successor in _successors().items():
        head[successor] += rows[token]
    square = _normal(random, _N_EMBD, _N_EMBD)
    return {
        "token_embd.weight": rows,
        "blk.0.attn_norm.weight": np.ones(_N_EMBD, np.float32),
        "blk.0.attn_q.weight": square,
        "blk.0.attn_k.weight": square,
        "blk.0.attn_v.weight": square,
        "blk.0.attn_output.weight": np.zeros_like(square),
        "blk.0.ffn_norm.weight": np.ones(_N_EMBD, np.float32),
        "blk.0.ffn_gate.weight": _normal(random, _N_FF, _N_EMBD),
        "blk.0.ffn_up.weight": _normal(random, _N_FF, _N_EMBD),
        "blk.0.ffn_down.weight": np.zeros((_N_EMBD, _N_FF), np.float32),
        "output_norm.weight": np.ones(_N_EMBD, np.float32),
        "output.weight": head,
    }


def _make_record(
    random: np.random.Generator, projector: dict[str, NDArray[np.float32]], language: dict[str, NDArray[np.float32]]
) -> ParityRecord:
    """What numpy makes of two pictures and a prompt."""
    pictures = tuple(random.integers(0, 256, (_SIDE, _SIDE, 3), dtype=np.uint8) for _ in range(2))
    pixels = [(picture.astype(np.float64) * (1 / 255)).astype(np.float32).transpose(2, 0, 1) for picture in pictures]
    features = np.stack([2 * square.reshape(_N_PATCHES, _N_FEATURES) for square in pixels])
    before = [_BOS, *_tokenize(PROMPT_BEFORE)]
    after = _tokenize(PROMPT_AFTER)
    tokens, last = list[int](), after[-1]
    for _ in range(_N_TOKENS):
        last = _successors()[last]
        tokens.append(last)
    row = language["token_embd.weight"][after[-1]]
    return ParityRecord(
        pictures=pictures,
        pixels=tuple(np.ascontiguousarray(square[None, :, ::PIXEL_STRIDE, ::PIXEL_STRIDE]) for square in pixels),
        rows=np.arange(_N_PATCHES, dtype=np.int64),
        features=features,
        embeddings=_project(features, projector),
        before=np.array(before, np.int64),
        after=np.array(after, np.int64),
        tokens=np.array(tokens, np.int64),
        reference_tokens=np.array(tokens, np.int64),
        logits=language["output.weight"] @ (row / np.sqrt(np.mean(row**2) + np.float32(_EPSILON))),
    )


def _project(features: NDArray[np.float32], weights: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """The projector in float64: two layers with the exact GELU between them."""
    hidden = features.astype(np.float64) @ weights["mm.0.weight"].T + weights["mm.0.bias"]
    hidden *= 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
    rows: NDArray[np.float64] = hidden @ weights["mm.2.weight"].T + weights["mm.2.bias"]
    return rows.astype(np.float32)


def _tokenize(text: str) -> list[int]:
    """As SentencePiece does where no word is a token: a space before it, every space one token, then bytes."""
    return [_SPACE if c == " " else _FIRST_BYTE + byte for c in f" {text}" for byte in c.encode()]


def _normal(random: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    values: NDArray[np.float64] = random.standard_normal(shape) / np.sqrt(shape[-1])
    return values.astype(np.float32)
