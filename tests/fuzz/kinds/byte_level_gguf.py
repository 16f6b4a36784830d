"""language.gguf with a byte-level vocabulary."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import tiny_checkpoint
from damage import damage_gguf
from frame import Kind

sys.path.append(str(Path(__file__).parents[2] / "converters"))

import tokenizers_made

from edge_llava.converters.bundle_specs import describe_language
from edge_llava.converters.checkpoint import Checkpoint
from edge_llava.errors import BackendError, BundleError
from edge_llava.runtime.language.language_model import LanguageModel
from edge_llava.runtime.options import DecoderOptions

_TEXT = "caf\u00e9 cafe\u0301 \U0001f600\n<|eot_id|> 1234567 <s></s>"


def make(directory: Path) -> Sequence[bytes]:
    """A small LLaVA with a tokenizer of Llama-3's kind."""
    place = tiny_checkpoint.write(directory / "checkpoint", "hf")
    for name in ("tokenizer.model", "added_tokens.json"):
        (place / name).unlink()
    tokenizers_made.write_llama_3(place)
    tiny_checkpoint.use(place)
    return [(place / "language.gguf").read_bytes()]


def read(directory: Path, content: bytes) -> None:
    """Loads it and tokenizes a text."""
    path, checkpoint = directory / "damaged.gguf", Checkpoint.open(str(directory / "checkpoint"))
    path.write_bytes(content)
    language = LanguageModel(path, describe_language(checkpoint, "F32", "llava_v1"), DecoderOptions())
    try:
        for token in language.tokenize(_TEXT, add_bos=True):
            language.piece(token), language.is_end(token)
        for token in range(language.spec.n_vocab):
            language.piece(token, special=True), language.is_end(token)
    finally:
        language.close()


KIND = Kind(n_cases=200, make=make, damage=damage_gguf, read=read, errors=(BundleError, BackendError))
