"""Reads the tokens of a checkpoint in the form that llama.cpp's SentencePiece tokenizer needs.

Source: sentencepiece's model file; transformers' tokenizer.json; llama.cpp's token types. Rows of the embedding without
a token (transformers pads 32,002 tokens to 32,064 rows of noise) are cut off, and so are `<image>` and `<pad>`, because
images arrive as embeddings. Tokens that were added and trained are kept.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

from edge_llava.converters.json_file import read_json, shorten, shown
from edge_llava.errors import CheckpointError, list_faults
from edge_llava.home.border import blaming_file

_UNMERGED_SCORE = -1e9
_UNNEEDED_TOKENS = ("<image>", "<pad>", "[PAD]", "<im_patch>")


class TokenType(IntEnum):
    """llama.cpp's token types."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass
class Vocabulary:
    """Tokens in id order; `len(tokens)` is the number of deployed embedding rows.

    Attributes:
        tokens: Pieces, with U+2581 for a space.
        scores: The highest score merges first.
        types: One per token.
        bos, eos, unk: Ids of the special tokens.
    """

    tokens: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    types: list[TokenType] = field(default_factory=list)
    bos: int = 1
    eos: int = 2
    unk: int = 0

    def append(self, token: str, score: float, type_: TokenType) -> None:
        """Adds a token with the next id."""
        self.tokens.append(token)
        self.scores.append(score)
        self.types.append(type_)

    def specials(self) -> dict[str, int]:
        """Ids of the tokens that stand for themselves wherever their text does, by text."""
        wanted = (TokenType.CONTROL, TokenType.USER_DEFINED)
        typed = zip(self.tokens, self.types, strict=True)
        return {token: id_ for id_, (token, type_) in enumerate(typed) if type_ in wanted}

    def __len__(self) -> int:
        return len(self.tokens)


def read_vocabulary(directory: Path, n_rows: int, image_token: int | None) -> Vocabulary:
    """Reads tokenizer.model, else tokenizer.json, and the added tokens.

    Args:
        directory: Checkpoint directory.
        n_rows: Rows of the embedding.
        image_token: Id of `<image>`, if the config names one.

    Raises:
        CheckpointError: If there is no tokenizer, it is not LLaMA's kind, or it has more tokens than rows.
    """
    if (directory / "tokenizer.model").is_file():
        vocabulary = _read_sentencepiece(directory / "tokenizer.model")
    elif (directory / "tokenizer.json").is_file():
        with _reading_json(directory / "tokenizer.json"):
            vocabulary = _read_tokenizer_json(directory / "tokenizer.json")
    else:
        raise CheckpointError(f"{directory} has neither tokenizer.model nor tokenizer.json.")
    if len(vocabulary) > n_rows:
        raise CheckpointError(
            f"{directory}: the tokenizer has {len(vocabulary)} tokens and the embedding {n_rows} rows."
        )
    _append_added(vocabulary, _read_added(directory), n_rows, image_token)
    _check_tokens(vocabulary, directory)
    return vocabulary


def _read_sentencepiece(path: Path) -> Vocabulary:
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
    if min(vocabulary.bos, vocabulary.eos, vocabulary.unk) < 0:
        raise CheckpointError(f"{path} lacks a beginning, end or unknown token; LLaMA's tokenizer has all three.")
    return vocabulary


def _check_tokens(vocabulary: Vocabulary, directory: Path) -> None:
    """Checks what llama.cpp assumes and would abort on."""
    n_uses = Counter(vocabulary.tokens)
    faults = [f"the token {shown(token)} occurs {n} times" for token, n in n_uses.items() if n > 1]
    faults += [
        f"the token {shown(token)} contains unpaired surrogates, which are not valid text"
        for token in n_uses
        if any("\ud800" <= letter <= "\udfff" for letter in token)
    ]
    faults += [
        f"the score of the token {shown(token)} is not a finite number"
        for token, score in zip(vocabulary.tokens, vocabulary.scores, strict=True)
        if not math.isfinite(score)
    ]
    faults += [f"the byte token <0x{byte:02X}> is missing" for byte in range(256) if f"<0x{byte:02X}>" not in n_uses]
    if faults:
        raise CheckpointError(list_faults(f"the tokenizer of {directory} cannot be used:", shorten(faults)))


def _check_normalizer(model: Any, path: Path) -> None:
    """llama.cpp merges pairs of the unchanged text; a model that normalizes it first would produce other tokens."""
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    rules = (
        (trainer.model_type == trainer.BPE, "it is not of type BPE"),
        (trainer.byte_fallback, "it has no byte fallback"),
        (not normalizer.precompiled_charsmap, f"it normalizes text ({normalizer.name})"),
        (not normalizer.remove_extra_whitespaces, "it removes spaces"),
        (normalizer.add_dummy_prefix, "it puts no space in front"),
    )
    faults = [fault for holds, fault in rules if not holds]
    if faults:
        raise CheckpointError(list_faults(f"{path} is not LLaMA's kind of tokenizer:", faults))


def _read_tokenizer_json(path: Path) -> Vocabulary:
    """Rebuilds scores from the merges: SentencePiece merges the highest score first."""
    data = read_json(path)
    model = data.get("model") or {}
    pieces: Mapping[str, int] = model.get("vocab") or {}
    if model.get("type") != "BPE" or not model.get("byte_fallback") or "<0x00>" not in pieces:
        raise CheckpointError(f"{path} is not LLaMA's kind of tokenizer (BPE with byte fallback). Add tokenizer.model.")
    if sorted(pieces.values()) != list(range(len(pieces))):
        raise CheckpointError(f"{path}: its token ids are not 0 to {len(pieces) - 1}. Add tokenizer.model.")
    ranks: dict[str, int] = {}
    for merge in model.get("merges") or []:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        ranks.setdefault(left + right, len(ranks))
    specials = {token["content"] for token in data.get("added_tokens") or [] if token.get("special")}
    unknown = model.get("unk_token") or "<unk>"
    vocabulary = Vocabulary(bos=pieces.get("<s>", -1), eos=pieces.get("</s>", -1), unk=pieces.get(unknown, -1))
    if min(vocabulary.bos, vocabulary.eos, vocabulary.unk) < 0:
        raise CheckpointError(f"{path} lacks <s>, </s> or {unknown}; LLaMA's tokenizer has all three.")
    for piece in sorted(pieces, key=pieces.__getitem__):
        if piece == unknown:
            vocabulary.append(piece, 0.0, TokenType.UNKNOWN)
        elif piece in specials or pieces[piece] in (vocabulary.bos, vocabulary.eos):
            vocabulary.append(piece, 0.0, TokenType.CONTROL)
        elif len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            vocabulary.append(piece, 0.0, TokenType.BYTE)
        else:
            vocabulary.append(piece, float(-ranks[piece]) if piece in ranks else _UNMERGED_SCORE, TokenType.NORMAL)
    return vocabulary


def _reading_json(path: Path) -> AbstractContextManager[None]:
    return blaming_file(CheckpointError, path, "Download it again.", "is not what a tokenizer's file looks like")


def _read_added(directory: Path) -> dict[int, tuple[str, bool]]:
    """Returns the added tokens by id, text and whether they are special, from every file that may list them."""
    added: dict[int, tuple[str, bool]] = {}
    if (directory / "tokenizer.json").is_file():
        with _reading_json(directory / "tokenizer.json"):
            for token in read_json(directory / "tokenizer.json").get("added_tokens") or []:
                added[int(token["id"])] = (str(token["content"]), bool(token.get("special")))
    if (directory / "added_tokens.json").is_file():
        with _reading_json(directory / "added_tokens.json"):
            for text, id_ in read_json(directory / "added_tokens.json").items():
                added.setdefault(int(id_), (text, False))
    if (directory / "tokenizer_config.json").is_file():
        with _reading_json(directory / "tokenizer_config.json"):
            decoder = read_json(directory / "tokenizer_config.json").get("added_tokens_decoder") or {}
            for id_text, token in decoder.items():
                added[int(id_text)] = (str(token["content"]), bool(token.get("special")))
    return added


def _append_added(
    vocabulary: Vocabulary, added: Mapping[int, tuple[str, bool]], n_rows: int, image_token: int | None
) -> None:
    wanted = [
        id_
        for id_, (text, _) in added.items()
        if len(vocabulary) <= id_ < n_rows and id_ != image_token and text not in _UNNEEDED_TOKENS
    ]
    for id_ in range(len(vocabulary), max(wanted, default=-1) + 1):
        text, special = added.get(id_, (f"[PAD{id_}]", True))
        if id_ not in wanted:
            vocabulary.append(text, _UNMERGED_SCORE, TokenType.UNUSED)
        else:
            vocabulary.append(text, -1000.0, TokenType.CONTROL if special else TokenType.USER_DEFINED)
