"""Reads a tokenizer.json of GPT-2's kind: BPE of bytes, each written as one letter of an alphabet of 256.

Source: the file format of Hugging Face's tokenizers; llama.cpp's src/llama-vocab.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_llava.bundle.byte_alphabet import BYTE_LETTERS
from edge_llava.bundle.language_spec import TokenizerSpec
from edge_llava.converters.json_file import plain, shorten, shown
from edge_llava.converters.tokenizers.added_tokens import AddedToken
from edge_llava.converters.tokenizers.pre_tokenizers import find_pre_tokenizer
from edge_llava.converters.tokenizers.tokenizer_config import read_tokenizer_config
from edge_llava.converters.tokenizers.vocabulary import TokenType, Vocabulary
from edge_llava.errors import CheckpointError, list_faults

# What would change how words are merged; llama.cpp has none of it.
_UNSUPPORTED = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk")


def is_byte_level(model: Mapping[str, Any]) -> bool:
    """Whether the section `model` of a tokenizer.json may be of this kind."""
    return model.get("type") == "BPE" and not model.get("byte_fallback")


def read_byte_level(data: Mapping[str, Any], path: Path, added: Mapping[int, AddedToken]) -> Vocabulary:
    """Reads the tokens that the tokenizer was trained with, and how text becomes them.

    Args:
        data: Content of the file, of which `is_byte_level` holds.
        path: The file.
        added: The added tokens, which may be named as the beginning and the end of a text.

    Raises:
        CheckpointError: If llama.cpp cannot compute the same tokens; all faults at once.
    """
    model, tokens = data["model"], data["model"].get("vocab") or {}
    pre, faults = find_pre_tokenizer(data)
    normalizer, fault = _read_normalizer(data.get("normalizer"))
    faults += fault
    faults += [f"its model has {key} {shown(model[key])}" for key in _UNSUPPORTED if model.get(key)]
    if missing := [letter for letter in BYTE_LETTERS if letter not in tokens]:
        faults.append(f"{len(missing)} of the 256 bytes have no token")
    faults += _find_id_faults(tokens, added)
    ids = {**tokens, **{token.text: id_ for id_, token in added.items()}}
    bos, adds_bos, bos_faults = _read_start(data.get("post_processor"), ids, path)
    faults += bos_faults
    eos = ids.get(read_tokenizer_config(path.parent).eos or "")
    if eos is None:
        faults.append("tokenizer_config.json does not name a token of it as eos_token")
    if faults or eos is None:
        raise CheckpointError(list_faults(f"{path} is not a tokenizer that llama.cpp can follow:", shorten(faults)))
    spec = TokenizerSpec("gpt2", pre, adds_bos=adds_bos, adds_space=False, normalizer=normalizer)
    vocabulary = Vocabulary(bos=eos if bos is None else bos, eos=eos, unk=None, spec=spec)
    by_id = {id_: text for text, id_ in tokens.items()}
    for id_ in range(max(by_id) + 1):
        type_ = TokenType.NORMAL if id_ in by_id else TokenType.UNUSED  # until it turns out to be an added one
        vocabulary.append(by_id.get(id_, f"[PAD{id_}]"), 0.0, type_)
    vocabulary.merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model.get("merges") or []]
    return vocabulary


def _find_id_faults(tokens: Mapping[str, int], added: Mapping[int, AddedToken]) -> list[str]:
    used = set(tokens.values())
    if len(used) != len(tokens):
        return ["two of its tokens have the same id"]
    known = used | set(added)
    gaps = (id_ for id_ in range(min(max(used, default=0), len(known)) + 1) if id_ not in known)
    return [f"it has no token with the id {id_}" for id_ in gaps][:1]


def _read_normalizer(section: Any) -> tuple[str, list[str]]:
    """The Unicode form that text is brought into, and faults."""
    if section is None:
        return "none", []
    steps = section["normalizers"] if section.get("type") == "Sequence" else [section]
    kinds = [step["type"] for step in steps]
    if kinds == ["NFC"]:
        return "nfc", []
    if not kinds:
        return "none", []
    return "none", [f"it changes text before it is split ({', '.join(map(plain, kinds))}); known is NFC"]


def _read_start(section: Any, ids: Mapping[str, int], path: Path) -> tuple[int | None, bool, list[str]]:
    """The token that may begin a text, whether it does, and faults."""
    config = read_tokenizer_config(path.parent)
    steps = [] if section is None else [section]
    if section is not None and section.get("type") == "Sequence":
        steps = section["processors"]
    parts = [part for step in steps if step["type"] == "TemplateProcessing" for part in step["single"]]
    kinds = [next(iter(part)) for part in parts]
    if kinds not in ([], ["Sequence"], ["SpecialToken", "Sequence"]):
        return None, False, [f"its post_processor puts tokens around a text in an unknown way: {shown(parts)}"]
    text = parts[0]["SpecialToken"]["id"] if len(kinds) == 2 else config.bos
    bos = ids.get(text) if text is not None else None
    adds_bos = config.adds_bos if config.adds_bos is not None else len(kinds) == 2
    if adds_bos and bos is None:
        return None, False, [f"a text begins with {shown(text)}, which is not a token of it"]
    return bos, adds_bos, []
