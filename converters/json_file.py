"""JSON files of a checkpoint, and how their values are shown in messages."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_llava.errors import CheckpointError
from edge_llava.home.border import blaming_file

_MAX_BYTES = 1 << 28  # tokenizer.json of 250,000 tokens has 32 MB
_MAX_SHOWN = 160  # characters of one value
_MAX_LISTED = 20
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _MAX_SHOWN
_REPR.maxlist = _REPR.maxdict = 8
_REPR.maxlevel = 4


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object in UTF-8, or in the encoding of a byte order mark, as Notepad and PowerShell write it.

    Raises:
        CheckpointError: If the file is missing or is not a JSON object.
    """
    with blaming_file(CheckpointError, path, "", "cannot be read as JSON"):
        if not path.exists():
            raise CheckpointError(f"{path.parent} is not a checkpoint: it has no {path.name}.")
        if not path.is_file():
            raise CheckpointError(f"{path} is not a regular file.")
        if path.stat().st_size > _MAX_BYTES:
            raise CheckpointError(f"{path} is larger than {_MAX_BYTES >> 20} MB; this is not a file of a checkpoint.")
        data = json.loads(path.read_bytes())
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} does not contain a JSON object.")
    return data


def shown(value: object) -> str:
    """Formats a value for a message: its repr, shortened if it is long or deep."""
    text = _REPR.repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 3]}..."


def plain(name: str) -> str:
    """Formats a name from an untrusted file for a message: one line, no control characters, shortened."""
    return shown(name)[1:-1] if len(name) > _MAX_SHOWN or not name.isprintable() else name


def shorten(faults: Sequence[str]) -> list[str]:
    """Returns the first faults of a long list, and how many more there are."""
    more = len(faults) - _MAX_LISTED
    return list(faults) if more <= 0 else [*faults[:_MAX_LISTED], f"... and {more} more"]
