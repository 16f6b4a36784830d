"""tokenizer.json, added_tokens.json and tokenizer_config.json of a checkpoint."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random

import tiny_checkpoint
from damage import damage_json
from frame import Kind

sys.path.append(str(Path(__file__).parents[2] / "converters"))

import tokenizers_made

from edge_llava.converters.tokenizers.reading import read_vocabulary
from edge_llava.converters.tokenizers.vocabulary import TokenType, Vocabulary
from edge_llava.errors import CheckpointError, ConversionError


def make(directory: Path) -> Sequence[bytes]:
    """LLaMA's kind of tokens, 512 of them, in the form of transformers' fast tokenizers."""
    place = tiny_checkpoint.write(directory / "checkpoint", "hf")
    vocabulary = read_vocabulary(place, 512, None)
    (place / "tokenizer.model").unlink()
    added = {"513": {"content": "<pad>", "special": True}, "514": {"content": "<extra>", "special": False}}
    files = {
        "tokenizer.json": _fast_tokenizer(vocabulary),
        "added_tokens.json": {"<image>": 512},
        "tokenizer_config.json": {"added_tokens_decoder": added, "bos_token": "<s>"},
        "config.json": tiny_checkpoint.config("hf"),
    }
    return [json.dumps(files).encode(), json.dumps(_byte_level(directory)).encode()]


def _byte_level(directory: Path) -> dict[str, object]:
    """The files of Llama-3's kind."""
    place = directory / "byte-level"
    place.mkdir()
    tokenizers_made.write_llama_3(place)
    files = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(place.glob("*.json"))}
    return files | {"config.json": tiny_checkpoint.config("hf")}


def _fast_tokenizer(vocabulary: Vocabulary) -> dict[str, object]:
    pieces = {token: id_ for id_, token in enumerate(vocabulary.tokens)}
    plain = [t for t, type_ in zip(vocabulary.tokens, vocabulary.types, strict=True) if type_ is TokenType.NORMAL]
    merges = [f"{token[:n]} {token[n:]}" for token in plain for n in range(1, len(token))
              if token[:n] in pieces and token[n:] in pieces]  # fmt: skip
    model = {"type": "BPE", "byte_fallback": True, "unk_token": "<unk>", "vocab": pieces, "merges": merges}
    special = [{"id": id_, "content": vocabulary.tokens[id_], "special": True} for id_ in range(3)]
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    normalizer = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, spaces]}
    return {"version": "1.0", "added_tokens": special, "normalizer": normalizer, "pre_tokenizer": None, "model": model}


def damage(content: bytes, rng: Random) -> bytes:
    """One of the files, or all."""
    if rng.random() < 0.2:
        return damage_json(content, rng)
    files = json.loads(content)
    names = ("tokenizer.json", "tokenizer.json", "added_tokens.json", "tokenizer_config.json")
    name = rng.choice([name for name in names if name in files])
    damaged = damage_json(json.dumps(files[name]).encode(), rng)
    try:
        files[name] = json.loads(damaged)
    except (ValueError, RecursionError):
        return damaged  # it becomes tokenizer.json
    return json.dumps(files).encode()


def read(directory: Path, content: bytes) -> None:
    """Reads the checkpoint as a conversion does, and has llama.cpp load the tokens."""
    place = directory / "checkpoint"
    tiny_checkpoint.write_files(place, content, "tokenizer.json")
    tiny_checkpoint.tokenize(place)


KIND = Kind(n_cases=80, make=make, damage=damage, read=read, errors=(CheckpointError, ConversionError))
