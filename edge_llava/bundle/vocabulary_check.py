"""Checks the vocabulary in the header of language.gguf against its manifest, before llama.cpp reads it.

llama.cpp ends the process, without an error that could be caught, at a token that occurs twice, a byte without a token,
a token of type byte that does not name one, tokens or merges that are not texts.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edge_llava.bundle.byte_alphabet import BYTE_LETTERS
from edge_llava.bundle.language_spec import LanguageSpec
from edge_llava.ggml.gguf_header import GgufArray, GgufHeader
from edge_llava.ggml.limits import MAX_TOKEN_BYTES
from edge_llava.ggml.types import GgufType

_ITEM_TYPES = {
    "llama": {"tokens": GgufType.STRING, "scores": GgufType.FLOAT32, "token_type": GgufType.INT32},
    "gpt2": {"tokens": GgufType.STRING, "token_type": GgufType.INT32},
}
_BYTES = {
    "llama": frozenset(b"<0x%02X>" % byte for byte in range(256)),
    "gpt2": frozenset(letter.encode() for letter in BYTE_LETTERS),
}
_BYTE = 6  # LLAMA_TOKEN_TYPE_BYTE


def find_vocabulary_faults(header: GgufHeader, spec: LanguageSpec) -> Iterator[str]:
    """What is wrong with the keys tokenizer.ggml.* of a file whose manifest says `spec`."""
    yield from _key_faults(header, spec)
    kind = spec.tokenizer.model
    for key, type_id in _ITEM_TYPES[kind].items():
        array = header.arrays.get(f"tokenizer.ggml.{key}")
        if array is None or array.length != spec.n_vocab:
            n_items = 0 if array is None else array.length
            yield f"tokenizer.ggml.{key} has {n_items} items, expected {spec.n_vocab}"
        elif array.type_id != type_id:
            yield f"tokenizer.ggml.{key} has items of type {array.type_id}, expected {type_id}"
        elif key == "tokens":
            yield from _token_faults(header, array, kind)
        elif key == "scores" and not np.isfinite(np.frombuffer(array.data, "<f4")).all():
            yield "tokenizer.ggml.scores holds infinite or undefined numbers"
    merges = header.arrays.get("tokenizer.ggml.merges")
    if kind == "gpt2" and (merges is None or merges.type_id != GgufType.STRING):
        yield "tokenizer.ggml.merges is missing or does not hold texts"
    if kind == "llama" and merges is not None:
        yield "'tokenizer.ggml.merges' is not part of a LLaMA vocabulary"


def _key_faults(header: GgufHeader, spec: LanguageSpec) -> Iterator[str]:
    tokenizer = spec.tokenizer
    # With what llama.cpp assumes where a SentencePiece vocabulary does not say it.
    defaults = {"pre": "default", "add_bos_token": True, "add_space_prefix": True} if tokenizer.model == "llama" else {}
    expected = {
        "model": tokenizer.model,
        "pre": tokenizer.pre,
        "bos_token_id": spec.bos,
        "eos_token_id": spec.eos,
        "add_bos_token": tokenizer.adds_bos,
        "add_space_prefix": tokenizer.adds_space,
    }
    for key, value in expected.items():
        found = header.metadata.get(f"tokenizer.ggml.{key}", defaults.get(key))
        if found != value:
            yield f"tokenizer.ggml.{key} is {repr(found)[:80]}, expected {value!r}"
    if header.metadata.get("tokenizer.ggml.add_eos_token", False) is not False:
        yield "tokenizer.ggml.add_eos_token is True, expected False"


def _token_faults(header: GgufHeader, array: GgufArray, kind: str) -> Iterator[str]:
    # as llama.cpp reads them: up to the first zero, and every empty one gets a name of its own
    texts = [text.split(b"\0")[0] or b"[EMPTY_%d]" % i for i, text in enumerate(array.strings)]
    if len(set(texts)) != len(texts):
        yield f"tokenizer.ggml.tokens holds {len(texts) - len(set(texts))} tokens twice"
    if not _BYTES[kind].issubset(texts):
        yield f"tokenizer.ggml.tokens lacks {len(_BYTES[kind] - set(texts))} of the 256 byte tokens"
    if max(map(len, texts)) > MAX_TOKEN_BYTES:
        yield f"tokenizer.ggml.tokens holds a token of more than {MAX_TOKEN_BYTES} bytes"
    yield from _byte_faults(header, texts, kind)


def _byte_faults(header: GgufHeader, texts: list[bytes], kind: str) -> Iterator[str]:
    """Tokens of type byte whose text does not name a byte: llama.cpp reads two digits there without looking."""
    types = header.arrays.get("tokenizer.ggml.token_type")
    if types is None or types.type_id != GgufType.INT32 or types.length != len(texts):
        return  # reported already
    bytes_ = np.flatnonzero(np.frombuffer(types.data, "<i4") == _BYTE)
    known = _BYTES["llama"] if kind == "llama" else frozenset()
    wrong = [texts[i] for i in bytes_ if texts[i] not in known]
    if wrong:
        yield f"tokenizer.ggml.token_type calls {len(wrong)} tokens bytes that are none, the first {wrong[0][:40]!r}"
