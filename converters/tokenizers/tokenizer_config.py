"""tokenizer_config.json: which tokens begin and end a text, and whether a prompt begins with one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_llava.converters.json_file import read_json
from edge_llava.converters.tokenizers.added_tokens import reading_json


@dataclass(frozen=True)
class TokenizerConfig:
    """What is said there; None where nothing is.

    Attributes:
        adds_bos: Whether a prompt begins with `bos`.
        bos, eos: Texts of the tokens.
    """

    adds_bos: bool | None = None
    bos: str | None = None
    eos: str | None = None


def read_tokenizer_config(directory: Path) -> TokenizerConfig:
    """Reads tokenizer_config.json, and where that says nothing special_tokens_map.json, if they are there.

    Raises:
        CheckpointError: If it is not what it should be.
    """
    config: dict[str, Any] = {}
    for path in (directory / "special_tokens_map.json", directory / "tokenizer_config.json"):
        if path.is_file():
            with reading_json(path):
                config |= read_json(path)
    adds_bos = config.get("add_bos_token")
    return TokenizerConfig(
        adds_bos if isinstance(adds_bos, bool) else None, _text(config.get("bos_token")), _text(config.get("eos_token"))
    )


def _text(token: Any) -> str | None:
    """The text of a token, written as such or with its flags."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None
