"""Reads a tokenizer.json of LLaMA's kind: BPE with byte fallback, which SentencePiece trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_llava.bundle.language_spec import SENTENCEPIECE
from edge_llava.converters.json_file import shown
from edge_llava.converters.tokenizers.tokenizer_config import read_tokenizer_config
from edge_llava.converters.tokenizers.vocabulary import UNMERGED_SCORE, TokenType, Vocabulary
from edge_llava.errors import CheckpointError

_SPACE = "\u2581"


def is_llama_json(model: Mapping[str, Any]) -> bool:
    """Whether the section `model` of a tokenizer.json is of this kind."""
    return model.get("type") == "BPE" and bool(model.get("byte_fallback")) and "<0x00>" in (model.get("vocab") or {})


def read_llama_json(data: Mapping[str, Any], path: Path) -> Vocabulary:
    """Rebuilds scores from the merges: SentencePiece merges the highest score first.

    Args:
        data: Content of the file, of which `is_llama_json` holds.
        path: The file.

    Raises:
        CheckpointError: If llama.cpp cannot compute the same tokens.
    """
    model, pieces = data["model"], data["model"]["vocab"]
    if sorted(pieces.values()) != list(range(len(pieces))):
        raise CheckpointError(f"{path}: its token ids are not 0 to {len(pieces) - 1}. Add tokenizer.model.")
    ranks: dict[str, int] = {}
    for merge in model.get("merges") or []:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        ranks.setdefault(left + right, len(ranks))
    specials = {token["content"] for token in data.get("added_tokens") or [] if token.get("special")}
    unknown = model.get("unk_token") or "<unk>"
    bos, eos, unk = (pieces.get(text, -1) for text in ("<s>", "</s>", unknown))
    if min(bos, eos, unk) < 0:
        raise CheckpointError(f"{path} lacks <s>, </s> or {unknown}; LLaMA's tokenizer has all three.")
    adds_bos = read_tokenizer_config(path.parent).adds_bos is not False
    spec = replace(SENTENCEPIECE, adds_bos=adds_bos, adds_space=_adds_space(data, path))
    vocabulary = Vocabulary(bos=bos, eos=eos, unk=unk, spec=spec)
    for piece in sorted(pieces, key=pieces.__getitem__):
        if piece == unknown:
            vocabulary.append(piece, 0.0, TokenType.UNKNOWN)
        elif piece in specials or pieces[piece] in (bos, eos):
            vocabulary.append(piece, 0.0, TokenType.CONTROL)
        elif len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            vocabulary.append(piece, 0.0, TokenType.BYTE)
        else:
            vocabulary.append(piece, float(-ranks[piece]) if piece in ranks else UNMERGED_SCORE, TokenType.NORMAL)
    return vocabulary


def _adds_space(data: Mapping[str, Any], path: Path) -> bool:
    """Whether a text, and what follows a special token, gets a space in front."""
    normalizer, pre_tokenizer = data.get("normalizer"), data.get("pre_tokenizer")
    steps = _steps(normalizer)
    replaces = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    if pre_tokenizer is None and steps == [{"type": "Prepend", "prepend": _SPACE}, replaces]:
        return True
    if pre_tokenizer is None and steps == [replaces]:
        return False
    raise CheckpointError(
        f"{path} treats spaces in another way than LLaMA's tokenizer: normalizer {shown(normalizer)}, "
        f"pre_tokenizer {shown(pre_tokenizer)}. Add tokenizer.model."
    )


def _steps(section: Any) -> list[Any]:
    if section is None:
        return []
    return list(section["normalizers"]) if section.get("type") == "Sequence" else [section]
