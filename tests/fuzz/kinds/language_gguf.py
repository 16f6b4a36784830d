"""language.gguf of each architecture."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from damage import Gguf, damage_gguf
from frame import Kind, copy_small_bundle

from edge_llava.bundle.bundle import Bundle
from edge_llava.errors import BackendError, BundleError
from edge_llava.parity.one_sequence import OneSequence
from edge_llava.runtime.language.decoder import Decoder
from edge_llava.runtime.language.sampler import Sampler
from edge_llava.runtime.options import DecoderOptions, SamplingOptions


def make(directory: Path) -> Sequence[bytes]:
    """The small bundle's, the same with divided frequencies, and as a Qwen2."""
    bundle = copy_small_bundle(directory)
    file, spec = bundle.file("language").read_bytes(), bundle.manifest.language
    width = spec.n_embd // spec.n_head
    llama3, qwen2 = Gguf.parse(file), Gguf.parse(file)
    _add_tensor(llama3, "rope_freqs.weight", width // 2)
    for layer in range(spec.n_layer):
        for part, n_heads in (("q", spec.n_head), ("k", spec.n_head_kv), ("v", spec.n_head_kv)):
            _add_tensor(qwen2, f"blk.{layer}.attn_{part}.bias", n_heads * width)
    qwen2.values = [
        (key.replace(b"llama.", b"qwen2."), type_id, _text("qwen2") if key == b"general.architecture" else value)
        for key, type_id, value in qwen2.values
    ]
    return [file, llama3.write(), qwen2.write()]


def _add_tensor(gguf: Gguf, name: str, n_items: int) -> None:
    gguf.tensors.append([name.encode(), [n_items], 0, len(gguf.data)])
    gguf.data += struct.pack("<f", 1.0) * n_items
    gguf.data += bytes(-len(gguf.data) % 32)


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def read(directory: Path, content: bytes) -> None:
    """Loads it, reads a prompt and rows of an image, and samples in both ways."""
    path, spec = directory / "damaged.gguf", Bundle.open(directory).manifest.language
    if b"qwen2.block_count" in content:
        spec = replace(spec, architecture="qwen2")
    path.write_bytes(content)
    decoder = Decoder(path, spec, DecoderOptions(n_ctx=64, n_threads=1))
    try:
        tokens = decoder.tokenize("USER: caf\u00e9 \U0001f600\n</s> ASSISTANT:", add_bos=True)[:40]
        one = OneSequence(decoder)
        one.prefill_rows(np.ones((4, spec.n_embd), np.float32))
        one.prefill_tokens(tokens)
        for temperature in (0, 0.8):
            sampler = Sampler(SamplingOptions(temperature=temperature, seed=1), decoder)
            try:
                one.decode(sampler.sample(decoder.context))
            finally:
                sampler.close()
        for token in range(spec.n_vocab):
            decoder.piece(token), decoder.is_end(token)
    finally:
        decoder.close()


KIND = Kind(n_cases=300, make=make, damage=damage_gguf, read=read, errors=(BundleError, BackendError))
