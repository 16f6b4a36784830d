"""How byte-level tokenizers split text into words before they merge: llama.cpp's names for what tokenizer.json says.

llama.cpp knows a pre-tokenizer by name only, and has a function written for each. What tokenizer.json describes is
compared with the descriptions that were published with the models; the conversion then proves the choice, by
tokenizing texts in both.
Source: tokenizer.json of Meta-Llama-3-8B, Qwen2-7B and gpt2; llama.cpp's src/llama-vocab.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from edge_llava.converters.json_file import shown

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORD = r"|[^\r\n\p{L}\p{N}]?\p{L}+"


@dataclass(frozen=True)
class PreTokenizer:
    """One way to split text.

    Attributes:
        splits: Regular expressions; every match becomes a word, one expression after the other.
        uses_own_regex: Whether GPT-2's expression follows, which is part of the step ByteLevel.
        ignores_merges: Whether a word that is a token is not merged.
    """

    splits: tuple[str, ...]
    uses_own_regex: bool
    ignores_merges: bool


# By llama.cpp's name.
_KNOWN: Mapping[str, PreTokenizer] = {
    "llama-bpe": PreTokenizer((_CONTRACTIONS + _WORD + r"|\p{N}{1,3}" + _REST,), False, ignores_merges=True),
    "qwen2": PreTokenizer((_CONTRACTIONS + _WORD + r"|\p{N}" + _REST,), False, ignores_merges=False),
    "gpt-2": PreTokenizer((), True, ignores_merges=False),
}


def find_pre_tokenizer(data: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Finds llama.cpp's name for the pre-tokenizer of a tokenizer.json.

    Args:
        data: Content of the file.

    Returns:
        The name, of the nearest known one where there are faults; and the faults.
    """
    try:
        found = PreTokenizer(*_read_steps(data.get("pre_tokenizer")), data["model"].get("ignore_merges") is True)
    except _Unknown as error:
        return "gpt-2", [f"its pre_tokenizer {error}; known are {', '.join(_KNOWN)}"]
    for name, known in _KNOWN.items():
        if found == known:
            return name, []
    nearest = max(_KNOWN, key=lambda name: _likeness(found, _KNOWN[name]))
    return nearest, [_difference(found, nearest)]


class _Unknown(Exception):
    """Raised inside this file only."""


def _read_steps(section: Any) -> tuple[tuple[str, ...], bool]:
    if not isinstance(section, dict):
        raise _Unknown("is missing")
    steps = section["pretokenizers"] if section.get("type") == "Sequence" else [section]
    *splits, last = steps
    if last["type"] != "ByteLevel":
        raise _Unknown(f"ends with {shown(last['type'])} instead of 'ByteLevel'")
    if last.get("add_prefix_space") is True:
        raise _Unknown("puts a space in front of a text (add_prefix_space)")
    return tuple(map(_read_split, splits)), last.get("use_regex") is not False


def _read_split(step: Mapping[str, Any]) -> str:
    if step["type"] != "Split" or step.get("behavior") != "Isolated" or step.get("invert") is True:
        raise _Unknown(f"has the step {shown(step)}")
    if "Regex" not in step["pattern"]:
        raise _Unknown(f"splits at {shown(step['pattern'])}")
    return str(step["pattern"]["Regex"])


def _likeness(found: PreTokenizer, known: PreTokenizer) -> float:
    return SequenceMatcher(None, _describe(found)[:2000], _describe(known), autojunk=False).ratio()


def _describe(pre_tokenizer: PreTokenizer) -> str:
    own = ["GPT-2's expression"] if pre_tokenizer.uses_own_regex else []
    return " then ".join([*pre_tokenizer.splits, *own])


def _difference(found: PreTokenizer, nearest: str) -> str:
    known = _KNOWN[nearest]
    if _describe(found) == _describe(known):
        return f"it splits text as {nearest} does, but its ignore_merges is {found.ignores_merges}"
    return (
        f"its pre_tokenizer is unknown: it splits text by {shown(_describe(found))}; "
        f"the nearest that llama.cpp knows is {nearest}, by {shown(_describe(known))}"
    )
