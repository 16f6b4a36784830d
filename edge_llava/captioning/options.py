"""What is asked about every picture, and how the answers are drawn and kept."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from edge_llava.bundle.manifest import Manifest
from edge_llava.runtime.options import SamplingOptions
from edge_llava.runtime.vision.images.alpha import Alpha

DEFAULT_PROMPT = "Describe the picture in detail."
DEFAULT_MAX_NEW_TOKENS = 256


@dataclass(frozen=True)
class CaptionOptions:
    """How a folder is captioned.

    Attributes:
        prompt: Asked about every picture, in a conversation of its own.
        sampling: How answers are drawn; the likeliest token by default, so that a picture always gets the same answer.
        schema: A JSON schema that every answer must follow, as JSON values; None for free text.
        sidecars: Also write each answer to a file beside its picture: IMG.txt, or IMG.json with a schema.
        overwrite: Replace what stands in the way: an output that was begun with other settings, and sidecars with other
            text. Answers of the same settings are kept all the same, so that a run can go on.
        encode_ahead: Encode the next picture while this one's answer is computed; None does so where a GPU does one of
            the two. On a CPU alone both share the cores and gain nothing; the next picture is then only read ahead.

    Raises:
        ValueError: If the prompt is no text, or the schema cannot be a grammar.
    """

    prompt: str = DEFAULT_PROMPT
    sampling: SamplingOptions = field(
        default_factory=lambda: SamplingOptions(temperature=0, max_new_tokens=DEFAULT_MAX_NEW_TOKENS)
    )
    schema: Mapping[str, Any] | None = None
    sidecars: bool = False
    overwrite: bool = False
    encode_ahead: bool | None = None

    def __post_init__(self) -> None:
        if not self.prompt.strip() or any("\ud800" <= character <= "\udfff" for character in self.prompt):
            raise ValueError("the prompt is no text")
        if self.schema is not None and self.sampling.grammar is not None:
            raise ValueError("answers follow a schema or a grammar, not both")
        _ = self.drawing  # a schema that cannot be a grammar is found here

    @cached_property
    def drawing(self) -> SamplingOptions:
        """The sampling options, with the schema as their grammar."""
        if self.schema is None:
            return self.sampling
        from edge_llava.runtime.language.json_grammar import SchemaFault, schema_grammar

        try:
            grammar = schema_grammar(self.schema)
        except SchemaFault as fault:
            where = f"the JSON schema: {'.'.join(fault.path)[:200]}" if fault.path else "the JSON schema"
            raise ValueError(f"{where} {fault}") from fault
        return dataclasses.replace(self.sampling, grammar=grammar)

    def digest(self, manifest: Manifest, visual_tokens: int | None, alpha: Alpha = "white") -> str:
        """A digest (16 hex digits) of everything that decides an answer: the bundle, the prompt, the drawing.

        The largest number of tokens is left out: an answer that ended earlier is the same with any other.

        Args:
            manifest: Of the bundle.
            visual_tokens, alpha: As in `EngineOptions`.
        """
        parts = dataclasses.asdict(manifest)
        decisive = {name: parts[name] for name in ("vision", "projector", "language")}
        decisive["files"] = {role: entry.sha256 for role, entry in manifest.files.items()}
        decisive["visual_tokens"] = visual_tokens
        if alpha != "drop":  # as all were before there was a choice
            decisive["alpha"] = alpha
        decisive["prompt"] = self.prompt
        decisive["sampling"] = dataclasses.asdict(dataclasses.replace(self.drawing, max_new_tokens=1))
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]
