"""The form that llama.cpp is given a text in: what the checkpoint's tokenizer does to it and llama.cpp does not."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property

from edge_llava.bundle.language_spec import TokenizerSpec

# What Unicode calls White_Space, which is what tokenizers take away; str.strip() takes more.
_WHITE_SPACE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"


class TextForm:
    """Normalizes text, and drops the white space that some special tokens swallow. Special tokens stay as they are."""

    def __init__(self, spec: TokenizerSpec, special_texts: Callable[[], Mapping[int, str]]) -> None:
        """
        Args:
            spec: Says what is to be done.
            special_texts: Gives the special tokens by id; asked only when there is something to do.
        """
        self._spec, self._special_texts = spec, special_texts

    def __call__(self, text: str) -> str:
        """The text as llama.cpp is to read it."""
        if self._spec.normalizer == "nfc" and not unicodedata.is_normalized("NFC", text):
            parts = self._special.split(text)  # texts and, at odd places, the special tokens between them
            parts[::2] = (unicodedata.normalize("NFC", part) for part in parts[::2])
            text = "".join(parts)
        return self._stripping.sub(r"\1", text) if self._spec.strips_after else text

    @cached_property
    def _special(self) -> re.Pattern[str]:
        return re.compile(f"({_any_of(self._special_texts().values())})")

    @cached_property
    def _stripping(self) -> re.Pattern[str]:
        texts = self._special_texts()
        stripping = _any_of(texts[id_] for id_ in self._spec.strips_after if id_ in texts)
        return re.compile(f"({stripping})[{_WHITE_SPACE}]+")


def _any_of(texts: Iterable[str]) -> str:
    """An expression for any of these texts, the longest first; for none of them, one that matches nothing."""
    return "|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or r"(?!)"
