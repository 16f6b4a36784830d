"""language.gguf with the digest that its manifest names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from damage import damage_gguf
from frame import Kind, copy_small_bundle

from edge_llava.bundle.bundle import Bundle
from edge_llava.errors import BackendError, BundleError
from edge_llava.parity.one_sequence import OneSequence
from edge_llava.runtime.language.decoder import Decoder
from edge_llava.runtime.language.sampler import Sampler
from edge_llava.runtime.options import DecoderOptions, SamplingOptions


def make(directory: Path) -> Sequence[bytes]:
    """The small bundle's."""
    return [copy_small_bundle(directory).file("language").read_bytes()]


def read(directory: Path, content: bytes) -> None:
    """Loads it, reads a prompt and rows of an image, and samples in both ways."""
    path, spec = directory / "damaged.gguf", Bundle.open(directory).manifest.language
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


KIND = Kind(n_cases=800, make=make, damage=damage_gguf, read=read, errors=(BundleError, BackendError))
