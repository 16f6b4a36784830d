"""Reads a tokenizer.model: SentencePiece's own file.

Source: sentencepiece's model file; llama.cpp's token types.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_llava.bundle.language_spec import SENTENCEPIECE
from edge_llava.converters.tokenizers.tokenizer_config import read_tokenizer_config
from edge_llava.converters.tokenizers.vocabulary import TokenType, Vocabulary
from edge_llava.errors import CheckpointError, list_faults
from edge_llava.home.border import blaming_file


def read_sentencepiece(path: Path) -> Vocabulary:
    """Reads the pieces, and how text becomes them.

    Raises:
        CheckpointError: If it is damaged, or not LLaMA's kind of tokenizer.
    """
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    processor = sentencepiece.SentencePieceProcessor()
    with blaming_file(CheckpointError, path, "Download it again.", "is not a SentencePiece model"):
        data = path.read_bytes()
        processor.LoadFromSerializedProto(data)
        model = sentencepiece_model_pb2.ModelProto.FromString(data)
        _check_normalizer(model, path)
        vocabulary = Vocabulary(bos=processor.bos_id(), eos=processor.eos_id(), unk=processor.unk_id())
        for piece in model.pieces:
            text = piece.piece if isinstance(piece.piece, str) else piece.piece.decode()  # bytes: not UTF-8, refused
            vocabulary.append(text, piece.score, TokenType(piece.type))
    if min(vocabulary.bos, vocabulary.eos, processor.unk_id()) < 0:
        raise CheckpointError(f"{path} lacks a beginning, end or unknown token; LLaMA's tokenizer has all three.")
    vocabulary.spec = replace(
        SENTENCEPIECE,
        adds_bos=read_tokenizer_config(path.parent).adds_bos is not False,
        adds_space=bool(model.normalizer_spec.add_dummy_prefix),
    )
    return vocabulary


def _check_normalizer(model: Any, path: Path) -> None:
    """llama.cpp merges pairs of the unchanged text; a model that normalizes it first would produce other tokens."""
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    rules = (
        (trainer.model_type == trainer.BPE, "it is not of type BPE"),
        (trainer.byte_fallback, "it has no byte fallback"),
        (not normalizer.precompiled_charsmap, f"it normalizes text ({normalizer.name})"),
        (not normalizer.remove_extra_whitespaces, "it removes spaces"),
    )
    faults = [fault for holds, fault in rules if not holds]
    if faults:
        raise CheckpointError(list_faults(f"{path} is not LLaMA's kind of tokenizer:", faults))
