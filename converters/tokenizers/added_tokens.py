"""Tokens that were added to a trained tokenizer: found in text before it is split, whatever stands around them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_llava.converters.json_file import read_json, shown
from edge_llava.errors import CheckpointError
from edge_llava.home.border import blaming_file

# Their rows are not deployed: pictures arrive as embeddings, and nothing is padded.
_UNNEEDED_TEXTS = ("<image>", "<video>", "<pad>", "[PAD]", "<im_patch>")


@dataclass(frozen=True)
class AddedToken:
    """An added token, with the flags of Hugging Face's tokenizers.

    Attributes:
        text: As it stands in a text.
        special: Whether it is left out of the text of an answer.
        lstrip, rstrip: Whether white space before or after it vanishes.
        single_word: Whether it is only found between other characters than letters.
        normalized: Whether it is looked for in the normalized text.
    """

    text: str
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False


def read_added_tokens(directory: Path) -> dict[int, AddedToken]:
    """Reads the added tokens by id, from every file that may list them; tokenizer_config.json has the last word.

    Raises:
        CheckpointError: If a file is not what it should be.
    """
    added: dict[int, AddedToken] = {}
    if (path := directory / "tokenizer.json").is_file():
        with reading_json(path):
            for token in read_json(path).get("added_tokens") or []:
                added[int(token["id"])] = _added_token(token)
    if (path := directory / "added_tokens.json").is_file():
        with reading_json(path):
            for text, id_ in read_json(path).items():
                added.setdefault(int(id_), AddedToken(text))
    if (path := directory / "tokenizer_config.json").is_file():
        with reading_json(path):
            for id_text, token in (read_json(path).get("added_tokens_decoder") or {}).items():
                added[int(id_text)] = _added_token(token)
    return added


def find_needed(added: Mapping[int, AddedToken], n_rows: int, image_token: int | None) -> dict[int, AddedToken]:
    """The added tokens that have a row and may occur in a conversation."""
    return {
        id_: token
        for id_, token in added.items()
        if 0 <= id_ < n_rows and id_ != image_token and token.text not in _UNNEEDED_TEXTS
    }


def find_flag_faults(added: Mapping[int, AddedToken]) -> list[str]:
    """Flags that llama.cpp cannot follow. White space after a token can be taken away before llama.cpp sees it."""
    flags = ("lstrip", "single_word")
    return [
        f"the added token {shown(token.text)} has {flag} true, which is not supported"
        for token in added.values()
        for flag in flags
        if getattr(token, flag)
    ]


def find_stripping(added: Mapping[int, AddedToken]) -> tuple[int, ...]:
    """The ids of those that swallow the white space that follows them."""
    return tuple(id_ for id_, token in added.items() if token.rstrip)


def reading_json(path: Path) -> AbstractContextManager[None]:
    """While inside, what fails is the fault of this file of a tokenizer."""
    return blaming_file(CheckpointError, path, "Download it again.", "is not what a tokenizer's file looks like")


def _added_token(token: Mapping[str, Any]) -> AddedToken:
    flags = ("special", "lstrip", "rstrip", "single_word", "normalized")
    return AddedToken(str(token["content"]), **{flag: token.get(flag) is True for flag in flags})
