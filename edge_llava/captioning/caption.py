"""One answer about one picture, and the line of JSON that keeps it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Caption:
    """What was said about a picture.

    Attributes:
        path: Of the picture, relative to the folder, with forward slashes.
        sha256: Of the file's bytes, 64 hex digits.
        answer: The text without surrounding white space; with a schema, the JSON value.
        finish_reason: "stop", or "length" for a text that was cut at the largest number of tokens.
        n_tokens: Tokens of the answer.
        seconds: Time that encoding the picture and answering took; 0 for a duplicate.
        duplicate_of: Path of the picture with the same bytes that was asked about; None for the first.
        truncated: Whether the file ends early, so that a part of the picture was missing.
    """

    path: str
    sha256: str
    answer: Any
    finish_reason: str
    n_tokens: int
    seconds: float
    duplicate_of: str | None = None
    truncated: bool = False

    def for_duplicate(self, path: str) -> Caption:
        """The same answer for another file with the same bytes."""
        return replace(self, path=path, seconds=0.0, duplicate_of=self.duplicate_of or self.path)


@dataclass(frozen=True)
class Provenance:
    """What every line of an output says about where its answer came from.

    Attributes:
        kind: Name of the field that holds the answer: "caption", or "json" with a schema.
        model: Name of the bundle; for people.
        prompt: What was asked.
        settings: See `CaptionOptions.digest`; lines of one output have the same.
    """

    kind: str
    model: str
    prompt: str
    settings: str

    def differences(self, record: Mapping[str, Any]) -> list[str]:
        """How a line was made otherwise, in words; empty if it was made as these are."""
        if record["settings"] == self.settings:
            return []
        named = {"prompt": self.prompt, "model": self.model}
        found = [f"{key}: {record[key]!r} then, {now!r} now" for key, now in named.items() if record[key] != now]
        if self.kind not in record:
            found.append(f"answers: {'text' if self.kind == 'json' else 'JSON'} then, {self.kind} now")
        return found or ["the bundle's files, the sampling, the schema, the visual tokens or --alpha differ"]

    def to_line(self, caption: Caption) -> bytes:
        """A line of the output, with its end. UTF-8; bytes of a path that are no text become \\udc80 to \\udcff."""
        record = {
            "path": caption.path,
            "sha256": caption.sha256,
            self.kind: caption.answer,
            "finish_reason": caption.finish_reason,
            "n_tokens": caption.n_tokens,
            "seconds": round(caption.seconds, 3),
        }
        if caption.duplicate_of is not None:
            record["duplicate_of"] = caption.duplicate_of
        if caption.truncated:
            record["truncated"] = True
        record |= {"model": self.model, "prompt": self.prompt, "settings": self.settings}
        return json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def parse_line(line: bytes) -> dict[str, Any]:
    """The record of a line.

    Raises:
        ValueError: If it is no line of a caption file.
    """
    try:
        record = json.loads(line)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(record, dict) or not ("caption" in record or "json" in record):
        raise ValueError("it holds no caption")
    texts = ("path", "sha256", "finish_reason", "model", "prompt", "settings")
    if not all(isinstance(record.get(key), str) for key in texts) or not isinstance(record.get("n_tokens"), int):
        raise ValueError("it lacks a field that every line has")
    return record


def read_caption(record: Mapping[str, Any], kind: str) -> Caption:
    """The caption of a record that `parse_line` gave."""
    return Caption(
        path=record["path"],
        sha256=record["sha256"],
        answer=record[kind],
        finish_reason=record["finish_reason"],
        n_tokens=record["n_tokens"],
        seconds=float(record.get("seconds") or 0),
        duplicate_of=record.get("duplicate_of"),
        truncated=record.get("truncated") is True,
    )
