"""Reads and writes JSON and JSONL of other programs; all faults are reported at once, each with its place."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edge_llava.errors import DataError, list_faults
from edge_llava.home import files
from edge_llava.home.regular_file import read_input
from edge_llava.home.unicode_text import is_unicode

_MAX_LISTED = 20


def read_text(path: Path) -> str:
    """Reads a UTF-8 file, with or without a byte order mark.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        return read_input(path).decode("utf-8-sig").replace("\r\n", "\n")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}).") from error


def read_json(path: Path) -> Any:
    """Reads the value in a JSON file.

    Raises:
        DataError: If it cannot be read or is not JSON.
    """
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {describe(error)}.") from error


def read_json_lines(path: Path, faults: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields line number (from 1) and object of a JSONL file; blank lines are skipped.

    Args:
        path: The file.
        faults: Receives each line that is not a JSON object; it is not yielded.

    Raises:
        DataError: If the file cannot be read.
    """
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            faults.append(f"line {number} is not JSON: {describe(error)}")
            continue
        if isinstance(value, dict):
            yield number, value
        else:
            faults.append(f"line {number} is not a JSON object")


def write_text(path: Path, text: str) -> None:
    """Writes a text file by rename: an existing file stays until the new one is complete.

    Raises:
        DataError: If it cannot be written, for example because the disk is full.
    """
    try:
        files.write_text(path, text)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}. An existing file is unchanged.") from error


def is_text(value: Any) -> bool:
    """Whether a JSON value is a string that is not blank and that can be written as UTF-8."""
    return isinstance(value, str) and bool(value.strip()) and is_unicode(value)


def is_id(value: Any) -> bool:
    """Whether a JSON value may be the id of a record; published data has numbers among its ids."""
    return is_text(value) or (isinstance(value, int) and not isinstance(value, bool))


def describe(error: ValueError | RecursionError) -> str:
    """Describes a JSON error in one line."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        place = f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        return f"{error.msg} ({place})"
    return str(error)


def refuse(headline: str, faults: Sequence[str], advice: str) -> DataError:
    """Returns an error with the first faults, and how many more there are."""
    listed = list(faults[:_MAX_LISTED])
    if len(faults) > _MAX_LISTED:
        listed.append(f"and {len(faults) - _MAX_LISTED} more")
    return DataError(list_faults(headline, listed, advice))
