"""Captions as CSV: a header, then one row for each line of the output, as RFC 4180 has it.

Spreadsheets compute a cell that begins with =, +, - or @, and both an answer and a file name may come from a stranger.
Such a cell gets an apostrophe in front, so that it is text; `decode` removes it.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping
from typing import Any

from edge_llava.captioning.caption import ANSWER_KINDS, check_record

_BEFORE_ANSWER = ("path", "sha256")
_AFTER_ANSWER = (
    "finish_reason", "n_tokens", "seconds", "duplicate_of", "truncated", "written_sha256", "model", "prompt",
    "settings",
)  # fmt: skip
_OPTIONAL = ("duplicate_of", "truncated", "written_sha256")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # of a spreadsheet that has saved the file
# Source: OWASP, "CSV Injection"; the last four are the wide forms of the first four. Apostrophes before them are
# counted, too, so that every text can be told from a guarded one.
_FORMULA = re.compile("'*[=+\\-@\t\r\uff1d\uff0b\uff0d\uff20]")
_ESCAPED_BYTE = re.compile(r"\\u(dc[89a-f][0-9a-f])")
_SETTINGS = re.compile(r"[0-9a-f]{16}")  # the last cell: a row that was cut has fewer digits
_ROW_END = re.compile(rb",[0-9a-f]{16}\r?\n")


def columns(kind: str) -> tuple[str, ...]:
    """The columns of a file whose answers are "caption" or "json", from left to right."""
    return (*_BEFORE_ANSWER, kind, *_AFTER_ANSWER)


class CsvRows:
    """The format of FILE.csv. The first row that is decoded must be the header, which says what the answers are."""

    def __init__(self, kind: str) -> None:
        """
        Args:
            kind: What the answers of new rows are: "caption" or "json".
        """
        self.header = _row(columns(kind))
        self._kind: str | None = None  # of the rows that are decoded

    def encode(self, record: Mapping[str, Any]) -> bytes:
        """A row with its end, in UTF-8. Undecodable bytes of a path become \\udc80 to \\udcff."""
        kind = _kind_of(record)
        self._kind = self._kind or kind
        cells = {name: _cell(value) for name, value in record.items() if name != kind}
        cells[kind] = _guard(record[kind] if kind == "caption" else json.dumps(record[kind], ensure_ascii=False))
        return _row([cells.get(name, "") for name in columns(kind)])

    def decode(self, row: bytes) -> dict[str, Any] | None:
        """The record of a row; None for an empty one and for the header.

        Raises:
            ValueError: If it is not a row of a caption file.
        """
        if self._kind is None:
            kinds = [kind for kind in ANSWER_KINDS if _matches(row, kind)]
            if not kinds:
                raise ValueError(f"it is not the header {','.join(columns('caption'))}")
            self._kind = kinds[0]
            return None
        if not row.strip():
            return None
        return self._read(self._kind, _parse(row))

    def is_whole(self, row: bytes) -> bool:
        """Whether the row ends with these lines: a quoted cell may go on in the next one."""
        return row.count(b'"') % 2 == 0

    def is_torn(self, row: bytes) -> bool:
        """Whether a last row that cannot be decoded is what a kill left of one."""
        if self._kind is None:
            return any(_row(columns(kind)).startswith(row) for kind in ANSWER_KINDS)
        if self.is_whole(row):
            return not row.endswith(b"\n")
        return _ROW_END.search(row) is None  # otherwise rows follow a quote that was never closed

    def _read(self, kind: str, cells: list[str]) -> dict[str, Any]:
        names = columns(kind)
        if len(cells) != len(names):
            raise ValueError(f"it has {len(cells)} cells, not {len(names)}")
        if _SETTINGS.fullmatch(cells[-1]) is None:
            raise ValueError("its last cell is not the digest of the settings")
        record: dict[str, Any] = {name: _unguard(cell) for name, cell in zip(names, cells, strict=True)}
        for name in ("path", "duplicate_of"):
            record[name] = _ESCAPED_BYTE.sub(lambda byte: chr(int(byte[1], 16)), record[name])
        try:
            record["n_tokens"], record["seconds"] = int(record["n_tokens"]), float(record["seconds"])
            if kind == "json":
                record["json"] = json.loads(record["json"])
        except RecursionError as error:
            raise ValueError("it is nested too deeply") from error
        record["truncated"] = record["truncated"] == "true"
        return check_record({name: value for name, value in record.items() if value or name not in _OPTIONAL})


def _kind_of(record: Mapping[str, Any]) -> str:
    return next(kind for kind in ANSWER_KINDS if kind in record)


def _matches(row: bytes, kind: str) -> bool:
    return row.removeprefix(_BYTE_ORDER_MARK).rstrip(b"\r\n") == _row(columns(kind)).rstrip()


def _cell(value: Any) -> str:
    if value is True:
        return "true"
    return _guard(value) if isinstance(value, str) else str(value)


def _guard(text: str) -> str:
    text = text.replace("\0", "\ufffd")  # which readers of CSV take for the end
    return f"'{text}" if _FORMULA.match(text) else text


def _unguard(text: str) -> str:
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def _row(cells: list[str] | tuple[str, ...]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue().encode("utf-8", "backslashreplace")


def _parse(row: bytes) -> list[str]:
    try:
        (cells,) = csv.reader(io.StringIO(row.decode(), newline=""), strict=True)
    except csv.Error as error:
        raise ValueError(f"it is not CSV: {error}") from error
    return cells
