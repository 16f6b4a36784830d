"""JSON and JSONL that others write and read: every fault is noted with its place, then all are told at once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edge_llava.errors import DataError, list_faults
from edge_llava.home.directories import write_atomically
from edge_llava.home.regular_file import read_input

_MAX_TOLD = 20


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark.

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
    """The value that a JSON file holds.

    Raises:
        DataError: If it cannot be read or is no JSON.
    """
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {describe(error)}.") from error


def read_json_lines(path: Path, faults: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields line number (from 1) and object of a JSONL file; blank lines are passed over.

    Args:
        path: The file.
        faults: A line that is no JSON object is noted here, and not yielded.

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
            faults.append(f"line {number} is no JSON object")


def write_text(path: Path, text: str) -> None:
    """Writes a text file by rename: what was there stays until the new one is complete.

    Raises:
        DataError: If it cannot be written, because the disk is full for example.
    """
    try:
        write_atomically(path, text)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}. What was there is unchanged.") from error


def is_text(value: Any) -> bool:
    """Whether a value of JSON is a text that is not blank and that can be written as UTF-8."""
    return isinstance(value, str) and bool(value.strip()) and not any("\ud800" <= c <= "\udfff" for c in value)


def is_id(value: Any) -> bool:
    """Whether a value of JSON may name a record: published data has numbers among its ids."""
    return is_text(value) or (isinstance(value, int) and not isinstance(value, bool))


def describe(error: ValueError | RecursionError) -> str:
    """What json says is wrong, in one line."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        place = f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        return f"{error.msg} ({place})"
    return str(error)


def refuse(headline: str, faults: Sequence[str], advice: str) -> DataError:
    """The error that tells the first faults, and how many more there are."""
    told = list(faults[:_MAX_TOLD])
    if len(faults) > _MAX_TOLD:
        told.append(f"and {len(faults) - _MAX_TOLD} more")
    return DataError(list_faults(headline, told, advice))
