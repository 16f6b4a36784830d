"""Tokenizes as the checkpoint's own tokenizer does: the reference that llama.cpp's tokens are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tokenizers import AddedToken, Tokenizer
from transformers import LlamaTokenizer

from edge_llava.converters.tokenizers.vocabulary import Vocabulary


def original_ids(directory: Path, vocabulary: Vocabulary, texts: Sequence[str]) -> list[list[int]]:
    """Tokenizes texts, each on its own and without BOS.

    LLaVA was trained with transformers' slow, legacy tokenizer where there is a tokenizer.model.

    Args:
        directory: Directory of the tokenizer's files.
        vocabulary: What was read from it; says which added tokens are in use.
        texts: Of any content.
    """
    added = {id_: _flagged(id_, vocabulary) for id_ in vocabulary.added}
    if (directory / "tokenizer.model").is_file():
        slow = LlamaTokenizer(
            vocab_file=str(directory / "tokenizer.model"),
            legacy=True,
            added_tokens_decoder=added,
            bos_token=added.get(vocabulary.bos, vocabulary.tokens[vocabulary.bos]),  # with its flags
            eos_token=added.get(vocabulary.eos, vocabulary.tokens[vocabulary.eos]),
            unk_token=vocabulary.tokens[vocabulary.unk or 0],
        )
        return [slow.encode(text, add_special_tokens=False) for text in texts]
    fast = Tokenizer.from_str((directory / "tokenizer.json").read_text(encoding="utf-8-sig"))
    # those that only tokenizer_config.json lists, with the next ids, as transformers does
    fast.add_tokens([token for id_, token in sorted(added.items()) if fast.token_to_id(token.content) is None])
    return [fast.encode(text, add_special_tokens=False).ids for text in texts]


def _flagged(id_: int, vocabulary: Vocabulary) -> AddedToken:
    flags = asdict(vocabulary.added[id_])
    return AddedToken(flags.pop("text"), **flags)
