"""What is known of a picture when its turn comes: one of four things."""

from __future__ import annotations

from dataclasses import dataclass

from edge_llava.errors import EdgeLlavaError
from edge_llava.runtime.vision.image import Image
from edge_llava.runtime.vision.image_embedding import ImageEmbedding


@dataclass(frozen=True)
class Unread:
    """Its bytes cannot be read, or changed meanwhile: why."""

    reason: str


@dataclass(frozen=True)
class Seen:
    """A picture with these bytes has its line, or had its turn in this run."""

    sha256: str


@dataclass(frozen=True)
class Damaged:
    """These bytes give no picture, or no embedding: why."""

    sha256: str
    fault: EdgeLlavaError


@dataclass(frozen=True)
class Ready:
    """To be asked about; encoded already, or only read."""

    sha256: str
    image: Image | ImageEmbedding
    truncated: bool = False


Prepared = Unread | Seen | Damaged | Ready
