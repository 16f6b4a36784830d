"""Checks language.gguf against its manifest before llama.cpp opens it."""

from __future__ import annotations

from pathlib import Path

from edge_llava.errors import BundleError, list_faults
from edge_llava.gguf_check import GgufHeader, read_gguf_header
from edge_llava.manifest import LanguageSpec


def check_language_file(path: Path, spec: LanguageSpec) -> None:
    """Reads the header of language.gguf and compares it with the manifest.

    Raises:
        BundleError: If the file is damaged, or is not the model that the manifest describes; all faults at once.
    """
    header = read_gguf_header(path)
    faults = _metadata_faults(header, spec) + _tensor_faults(header, spec)
    if faults:
        raise BundleError(list_faults(f"{path} does not match its manifest:", faults, "Convert the checkpoint again."))


def _metadata_faults(header: GgufHeader, spec: LanguageSpec) -> list[str]:
    expected = {
        "general.architecture": "llama",
        "llama.block_count": spec.n_layer,
        "llama.embedding_length": spec.n_embd,
        "llama.attention.head_count": spec.n_head,
        "llama.attention.head_count_kv": spec.n_head_kv,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.bos_token_id": spec.bos,
        "tokenizer.ggml.eos_token_id": spec.eos,
    }
    found = {key: header.metadata.get(key) for key in expected}
    faults = [f"{key} is {found[key]!r}, expected {value!r}" for key, value in expected.items() if found[key] != value]
    for key in ("tokens", "scores", "token_type"):
        n_items = header.array_lengths.get(f"tokenizer.ggml.{key}")
        if n_items != spec.n_vocab:
            faults.append(f"tokenizer.ggml.{key} has {n_items} items, expected {spec.n_vocab}")
    return faults


def _tensor_faults(header: GgufHeader, spec: LanguageSpec) -> list[str]:
    matrices = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    names = ["token_embd.weight", "output_norm.weight"]
    for layer in range(spec.n_layer):
        names += [f"blk.{layer}.{part}.weight" for part in ("attn_norm", "ffn_norm", *matrices)]
    faults = [f"tensor {name} is missing" for name in names if name not in header.tensors]
    embedding = header.tensors.get("token_embd.weight")
    if embedding is not None and embedding.shape != (spec.n_embd, spec.n_vocab):
        faults.append(f"token_embd.weight has shape {embedding.shape}, expected {(spec.n_embd, spec.n_vocab)}")
    return faults
