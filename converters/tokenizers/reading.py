"""Reads the tokens of a checkpoint, of whichever kind they are.

Rows of the embedding without a token (transformers pads 32,002 tokens to 32,064 rows of noise) are cut off, and so are
`<image>` and `<pad>` at the end, because images arrive as embeddings. Tokens that were added and trained are kept.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from edge_llava.converters.json_file import read_json, shorten, shown
from edge_llava.converters.tokenizers.added_tokens import (
    AddedToken,
    find_flag_faults,
    find_needed,
    find_stripping,
    read_added_tokens,
    reading_json,
)
from edge_llava.converters.tokenizers.byte_level import is_byte_level, read_byte_level
from edge_llava.converters.tokenizers.end_ids import find_ends
from edge_llava.converters.tokenizers.llama_json import is_llama_json, read_llama_json
from edge_llava.converters.tokenizers.reserved_texts import disguise_reserved
from edge_llava.converters.tokenizers.sentencepiece_model import read_sentencepiece
from edge_llava.converters.tokenizers.vocabulary import UNMERGED_SCORE, TokenType, Vocabulary
from edge_llava.errors import CheckpointError, list_faults

_ADDED_SCORE = -1000.0
_NO_TEXT = re.compile("[\0\ud800-\udfff]")


def read_vocabulary(directory: Path, n_rows: int, image_token: int | None, configs: Sequence[Path] = ()) -> Vocabulary:
    """Reads tokenizer.model, else tokenizer.json, and the added tokens.

    Args:
        directory: Directory of the tokenizer's files.
        n_rows: Rows of the embedding.
        image_token: Id of `<image>`, if the config names one.
        configs: Directories whose config.json and generation_config.json name the tokens that end an answer.

    Raises:
        CheckpointError: If there is no tokenizer, llama.cpp cannot compute its tokens, or it has more tokens than rows.
    """
    added = read_added_tokens(directory)
    vocabulary = _read_trained(directory, added)
    if len(vocabulary) > n_rows:
        raise CheckpointError(
            f"{directory}: the tokenizer has {len(vocabulary)} tokens and the embedding {n_rows} rows."
        )
    needed = find_needed(added, n_rows, image_token)
    _append_added(vocabulary, added, needed)
    vocabulary.added = {id_: needed[id_] for id_ in sorted(needed) if _is_found(needed[id_], id_, vocabulary)}
    vocabulary.spec = replace(vocabulary.spec, strips_after=find_stripping(vocabulary.added))
    if vocabulary.spec.model == "gpt2":
        disguise_reserved(vocabulary)
    _check_tokens(vocabulary, directory)
    vocabulary.eos, vocabulary.end_ids = find_ends(vocabulary, configs)
    return vocabulary


def _read_trained(directory: Path, added: Mapping[int, AddedToken]) -> Vocabulary:
    model, path = directory / "tokenizer.model", directory / "tokenizer.json"
    if model.is_file():
        return read_sentencepiece(model)
    if not path.is_file():
        raise CheckpointError(
            f"{directory} has neither tokenizer.model nor tokenizer.json. Where there are vocab.json and merges.txt, "
            "AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR) writes the latter."
        )
    with reading_json(path):
        data = read_json(path)
        section = data.get("model") or {}
        if is_llama_json(section):
            return read_llama_json(data, path)
        if is_byte_level(section):
            return read_byte_level(data, path, added)
    raise CheckpointError(
        f"{path} is of another kind ({shown(section.get('type'))}) than those that llama.cpp can follow: BPE with byte "
        "fallback, and BPE of bytes. Add tokenizer.model if there is one."
    )


def _append_added(vocabulary: Vocabulary, added: Mapping[int, AddedToken], needed: Mapping[int, AddedToken]) -> None:
    """Adds rows up to the last token that is needed; an unneeded one below it keeps its row and is never found."""
    for id_ in range(len(vocabulary)):
        _mark_trained(vocabulary, id_, added.get(id_), is_needed=id_ in needed)
    for id_ in range(len(vocabulary), max(needed, default=-1) + 1):
        if id_ in needed:
            type_ = TokenType.CONTROL if needed[id_].special else TokenType.USER_DEFINED
            vocabulary.append(needed[id_].text, _ADDED_SCORE, type_)
        else:
            vocabulary.append(f"[PAD{id_}]", UNMERGED_SCORE, TokenType.UNUSED)


def _mark_trained(vocabulary: Vocabulary, id_: int, token: AddedToken | None, *, is_needed: bool) -> None:
    """Gives an added token that lies among the trained ones its type."""
    is_plain = vocabulary.types[id_] in (TokenType.NORMAL, TokenType.UNUSED)
    if token is None or not is_plain:
        return
    if vocabulary.spec.model == "llama" and vocabulary.tokens[id_] != token.text:
        return  # the pieces have the last word
    vocabulary.tokens[id_] = token.text if is_needed else f"[PAD{id_}]"
    if not is_needed:
        vocabulary.types[id_] = TokenType.UNUSED
    else:
        vocabulary.types[id_] = TokenType.CONTROL if token.special else TokenType.USER_DEFINED


def _is_found(token: AddedToken, id_: int, vocabulary: Vocabulary) -> bool:
    is_special = vocabulary.types[id_] in (TokenType.CONTROL, TokenType.USER_DEFINED)
    return is_special and vocabulary.tokens[id_] == token.text


def _check_tokens(vocabulary: Vocabulary, directory: Path) -> None:
    """Checks what llama.cpp assumes and would abort on, and what it cannot do."""
    n_uses = Counter(vocabulary.tokens)
    faults = [f"the token {shown(token)} occurs {n} times" for token, n in n_uses.items() if n > 1]
    faults += [
        f"the token {shown(token)} contains unpaired surrogates or zeros, which are not valid text"
        for token in (*n_uses, *vocabulary.merges)
        if _NO_TEXT.search(token)
    ]
    faults += [
        f"the score of the token {shown(token)} is not a finite number"
        for token, score in zip(vocabulary.tokens, vocabulary.scores, strict=True)
        if not math.isfinite(score)
    ]
    if vocabulary.spec.model == "llama":
        bytes_ = (f"<0x{byte:02X}>" for byte in range(256))
        faults += [f"the byte token {token} is missing" for token in bytes_ if token not in n_uses]
    faults += find_flag_faults(vocabulary.added)
    if faults:
        raise CheckpointError(list_faults(f"the tokenizer of {directory} cannot be used:", shorten(faults)))
