"""The state of an image when its turn comes: one of four."""

from __future__ import annotations

from dataclasses import dataclass

from edge_llava.errors import EdgeLlavaError
from edge_llava.runtime.vision.image import Image
from edge_llava.runtime.vision.image_embedding import ImageEmbedding


@dataclass(frozen=True)
class Unread:
    """The bytes cannot be read, or changed while they were read; `reason` says why."""

    reason: str


@dataclass(frozen=True)
class Seen:
    """An image with the same bytes has a line already, or had its turn in this run."""

    sha256: str


@dataclass(frozen=True)
class Damaged:
    """The bytes cannot be decoded or encoded; `fault` says why."""

    sha256: str
    fault: EdgeLlavaError


@dataclass(frozen=True)
class Ready:
    """The image is ready for its question: already encoded, or only opened."""

    sha256: str
    image: Image | ImageEmbedding
    truncated: bool = False


Prepared = Unread | Seen | Damaged | Ready
