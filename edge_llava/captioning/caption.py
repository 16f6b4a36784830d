"""One answer about one image, and the record of it that an output stores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

ANSWER_KINDS = ("caption", "json")  # names of the field that holds the answer


@dataclass(frozen=True)
class Caption:
    """The answer about an image.

    Attributes:
        path: Path of the image, relative to the folder, with forward slashes.
        sha256: Digest of the file's bytes, 64 hex digits.
        answer: The text without surrounding white space; with a schema, the JSON value.
        finish_reason: "stop", or "length" for a text that was cut at the token limit.
        n_tokens: Number of tokens in the answer.
        seconds: Time taken to encode the image and to answer; 0 for a duplicate.
        duplicate_of: Path of the image with the same bytes that was captioned first; None if this is that image.
        truncated: Whether the file ends early, so that part of the image was missing.
        written_sha256: Digest of the file with the caption in its metadata; None if it was not written there.
    """

    path: str
    sha256: str
    answer: Any
    finish_reason: str
    n_tokens: int
    seconds: float
    duplicate_of: str | None = None
    truncated: bool = False
    written_sha256: str | None = None

    def for_duplicate(self, path: str) -> Caption:
        """The same answer for another file with the same bytes."""
        return replace(self, path=path, seconds=0.0, duplicate_of=self.duplicate_of or self.path, written_sha256=None)


@dataclass(frozen=True)
class Provenance:
    """Where an answer came from, as every line of an output records it.

    Attributes:
        kind: Name of the field that holds the answer: "caption", or "json" with a schema.
        model: Name of the bundle, for people to read.
        prompt: The question.
        settings: See `CaptionOptions.digest`; all lines of one output have the same value.
    """

    kind: str
    model: str
    prompt: str
    settings: str

    def differences(self, record: Mapping[str, Any]) -> list[str]:
        """Describes how a line was made differently; empty if it was made in the same way."""
        if record["settings"] == self.settings:
            return []
        named = {"prompt": self.prompt, "model": self.model}
        found = [f"{key}: {record[key]!r} then, {now!r} now" for key, now in named.items() if record[key] != now]
        if self.kind not in record:
            found.append(f"answers: {'text' if self.kind == 'json' else 'JSON'} then, {self.kind} now")
        return found or ["the bundle's files, the sampling, the schema, the visual tokens or --alpha differ"]

    def to_record(self, caption: Caption) -> dict[str, Any]:
        """What a line of the output says. Fields without a meaning for this image are left out."""
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
        if caption.written_sha256 is not None:
            record["written_sha256"] = caption.written_sha256
        return record | {"model": self.model, "prompt": self.prompt, "settings": self.settings}


def check_record(record: Any) -> dict[str, Any]:
    """Checks what was read from a line.

    Raises:
        ValueError: If it is not a record of a caption.
    """
    if not isinstance(record, dict) or not any(kind in record for kind in ANSWER_KINDS):
        raise ValueError("it contains no caption")
    texts = ("path", "sha256", "finish_reason", "model", "prompt", "settings")
    if not all(isinstance(record.get(key), str) for key in texts) or not isinstance(record.get("n_tokens"), int):
        raise ValueError("it lacks a field that every line has")
    return record


def read_caption(record: Mapping[str, Any], kind: str) -> Caption:
    """Makes a caption from a record that `check_record` returned."""
    return Caption(
        path=record["path"],
        sha256=record["sha256"],
        answer=record[kind],
        finish_reason=record["finish_reason"],
        n_tokens=record["n_tokens"],
        seconds=float(record.get("seconds") or 0),
        duplicate_of=record.get("duplicate_of"),
        truncated=record.get("truncated") is True,
        written_sha256=record.get("written_sha256"),
    )
