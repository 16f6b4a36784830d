"""Captions as JSON lines: one object for each line of the output."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from edge_llava.captioning.caption import check_record

_LINE_START = b'{"path": "'


class JsonLines:
    """The format of FILE.jsonl. A line needs no header, and does not depend on those before it."""

    header = b""

    def encode(self, record: Mapping[str, Any]) -> bytes:
        """A line with its end, in UTF-8. Undecodable bytes of a path become \\udc80 to \\udcff."""
        return json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"

    def decode(self, line: bytes) -> dict[str, Any] | None:
        """The record of a line; None for an empty one.

        Raises:
            ValueError: If it is not a line of a caption file.
        """
        if not line.strip():
            return None
        try:
            return check_record(json.loads(line))
        except RecursionError as error:
            raise ValueError("it is nested too deeply") from error

    def is_whole(self, line: bytes) -> bool:
        """Whether the next line begins another record, which is always so."""
        return True

    def is_torn(self, line: bytes) -> bool:
        """Whether a last line that cannot be decoded is what a kill left of one."""
        return not line.endswith(b"\n") and _LINE_START.startswith(line[: len(_LINE_START)])
