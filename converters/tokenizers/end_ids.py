"""Which tokens end an answer: what the configs name, and what llama.cpp takes for an end whatever they say.

The config of many a Llama-3 names <|end_of_text|>, while its answers end with <|eot_id|>.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edge_llava.converters.json_file import read_json
from edge_llava.converters.tokenizers.reserved_texts import END_TEXTS
from edge_llava.converters.tokenizers.vocabulary import TokenType, Vocabulary

_SPECIAL = (TokenType.CONTROL, TokenType.USER_DEFINED)


def find_ends(vocabulary: Vocabulary, directories: Sequence[Path]) -> tuple[int, tuple[int, ...]]:
    """Finds the tokens that end an answer.

    Args:
        vocabulary: With the `eos` of its tokenizer.
        directories: Where generation_config.json and config.json are looked for.

    Returns:
        The id that ends an answer first of all, the config's before the tokenizer's own; and all of them.
    """
    named = [id_ for directory in directories for id_ in _read_named(directory) if _can_end(id_, vocabulary)]
    by_text = [
        id_
        for id_, (text, type_) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True))
        if text in END_TEXTS and type_ in _SPECIAL
    ]
    return [*named, vocabulary.eos][0], tuple(sorted({*named, vocabulary.eos, *by_text}))


def _read_named(directory: Path) -> Iterator[int]:
    """The ids that configs name, the most specific first."""
    for name in ("generation_config.json", "config.json"):
        if (directory / name).is_file():
            config = read_json(directory / name)
            yield from _integers(config.get("eos_token_id"))
            if isinstance(config.get("text_config"), dict):
                yield from _integers(config["text_config"].get("eos_token_id"))


def _integers(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [id_ for id_ in values if type(id_) is int]


def _can_end(id_: int, vocabulary: Vocabulary) -> bool:
    """Whether an id names a special token that does not begin a text: configs of old LLaVAs are off by one."""
    is_start = vocabulary.spec.adds_bos and id_ == vocabulary.bos
    return 0 <= id_ < len(vocabulary) and vocabulary.types[id_] in _SPECIAL and not is_start
