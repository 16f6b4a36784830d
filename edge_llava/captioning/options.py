"""What is asked about every image, and how the answers are sampled and stored."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from edge_llava.bundle.manifest import Manifest
from edge_llava.captioning.metadata.descriptions import Place
from edge_llava.home.image_files.alpha import Alpha
from edge_llava.home.unicode_text import is_unicode
from edge_llava.runtime.options import SamplingOptions

DEFAULT_PROMPT = "Describe the picture in detail."
DEFAULT_MAX_NEW_TOKENS = 256


@dataclass(frozen=True)
class CaptionOptions:
    """How a folder is captioned.

    Attributes:
        prompt: The question about every image; each has its own conversation.
        sampling: How answers are sampled; greedy by default, so that an image always gets the same answer.
        schema: A JSON schema that every answer must follow, as JSON values; None for free text.
        sidecars: Also write each answer to a file next to its image: IMG.txt, or IMG.json with a schema.
        overwrite: Replace an output that was begun with other settings, and sidecar files with other text. Answers of
            the same settings are still kept, so that a run can resume.
        describe: Also write each caption as the description of its image, for photo managers: "image" writes it into
            the image file (JPEG, PNG, WebP, TIFF), "xmp" into IMG.jpg.xmp next to it. None does not.
        replace_descriptions: Replace descriptions that are there.
        watch: The sources are watched: they may be empty at first, and an image that was just changed may not be
            complete.
        encode_ahead: Encode the next image while the answer about this one is computed. None does so if a GPU runs one
            of the two. On a CPU both share the cores and nothing is gained: the next image is only read ahead.

    Raises:
        ValueError: If the prompt is not valid text, the schema cannot be enforced, or it excludes another option.
    """

    prompt: str = DEFAULT_PROMPT
    sampling: SamplingOptions = field(
        default_factory=lambda: SamplingOptions(temperature=0, max_new_tokens=DEFAULT_MAX_NEW_TOKENS)
    )
    schema: Mapping[str, Any] | None = None
    sidecars: bool = False
    overwrite: bool = False
    encode_ahead: bool | None = None
    describe: Place | None = None
    replace_descriptions: bool = False
    watch: bool = False

    def __post_init__(self) -> None:
        if not self.prompt.strip() or not is_unicode(self.prompt):
            raise ValueError("the prompt is empty or not valid text")
        if self.schema is not None and (self.sampling.grammar, self.sampling.json_schema) != (None, None):
            raise ValueError("schema excludes the sampling's own grammar and json_schema")
        if self.schema is not None and self.describe is not None:
            raise ValueError("descriptions are text, and the answers to a schema are JSON")
        _ = self.effective_sampling  # a schema that cannot be enforced is found here

    @cached_property
    def effective_sampling(self) -> SamplingOptions:
        """The sampling options, including the schema."""
        if self.schema is None:
            return self.sampling
        return dataclasses.replace(self.sampling, json_schema=self.schema)

    def digest(
        self, manifest: Manifest, visual_tokens: int | None, alpha: Alpha = "white", max_tiles: int | None = None
    ) -> str:
        """A digest (16 hex digits) of everything that decides an answer: the bundle, the prompt, the sampling.

        The token limit is left out: an answer that ended before it does not depend on it.

        Args:
            manifest: The bundle's manifest.
            visual_tokens: As in `EngineOptions`.
            alpha: As in `EngineOptions`.
            max_tiles: As in `EngineOptions`.
        """
        parts = dataclasses.asdict(manifest)
        decisive = {name: parts[name] for name in ("vision", "projector", "language")}
        for told in ("importance", "mix"):  # how the files were made, which their digests say as well
            del decisive["language"][told]
        decisive["files"] = {role: entry.sha256 for role, entry in manifest.files.items()}
        decisive["visual_tokens"] = visual_tokens
        if alpha != "drop":  # the default before the option existed
            decisive["alpha"] = alpha
        if max_tiles is not None:
            decisive["max_tiles"] = max_tiles
        decisive["prompt"] = self.prompt
        decisive["sampling"] = dataclasses.asdict(dataclasses.replace(self.effective_sampling, max_new_tokens=1))
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]
