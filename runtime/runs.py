"""What a conversation is made of: runs of tokens and of image rows, and what each context position stands for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_llava.bundle.vision_spec import VisionSpec
from edge_llava.runtime.vision.image import Image
from edge_llava.runtime.vision.image_embedding import ImageEmbedding

Position = int | tuple[str, int]
"""What one position of the KV cache was computed from: a token id, or (identity of the rows, row)."""


@dataclass(frozen=True)
class TokenRun:
    """Consecutive tokens."""

    ids: tuple[int, ...]

    @property
    def n_tokens(self) -> int:
        """Positions in the context."""
        return len(self.ids)

    @property
    def positions(self) -> Sequence[Position]:
        """What each position stands for."""
        return self.ids


@dataclass(eq=False)
class ImageRun:
    """An image at its place. Its rows are computed when they must be prefilled, and not before.

    Attributes:
        key: As `ImageEmbedding.key`.
        identity: What its rows are known by in the KV cache; as `ImageEmbedding.identity`.
        n_tokens: Positions in the context.
        form: How the tower is shown it, see `forms.ImageForms`.
        image: What the tower is shown; None once the rows are there, unless it may take another form.
        embedding: The rows; None until they are needed.
        encoding: The rows on their way; None before and after.
        truncated: Whether the image's file ended early, so that a part of it is missing.
        may_change: Whether its form is another one once a second image comes into the conversation.
    """

    key: str
    identity: str
    n_tokens: int
    form: VisionSpec
    image: Image | None
    embedding: ImageEmbedding | None = None
    encoding: Future[ImageEmbedding] | None = None
    truncated: bool = False
    may_change: bool = False

    @classmethod
    def of_embedding(cls, embedding: ImageEmbedding, form: VisionSpec) -> ImageRun:
        """An image that was encoded before, in this form."""
        return cls(embedding.key, embedding.identity, embedding.n_tokens, form, None, embedding)

    @property
    def positions(self) -> Sequence[Position]:
        """What each position stands for."""
        return [(self.identity, row) for row in range(self.n_tokens)]

    @property
    def size(self) -> tuple[int, int]:
        """The image's (width, height) in pixels.

        Raises:
            ValueError: If neither the image nor its rows are there.
        """
        if self.image is not None:
            return self.image.size
        if self.embedding is not None:
            return self.embedding.image_size
        raise ValueError("this image was never there")

    @property
    def rows(self) -> NDArray[np.float32]:
        """float32 (n_tokens, n_embd).

        Raises:
            ValueError: If they were not computed.
        """
        if self.embedding is None:
            raise ValueError("this image was not encoded")
        return self.embedding.data

    def stop_encoding(self) -> None:
        """Stops waiting for rows that are on their way; the next request for them starts again."""
        if self.encoding is not None:
            self.encoding.cancel()
            self.encoding = None

    def take(self, embedding: ImageEmbedding) -> None:
        """Keeps the rows; the image is let go where nothing else can become of it."""
        self.embedding, self.encoding = embedding, None
        if not self.may_change:
            self.image = None


Run = TokenRun | ImageRun


def list_positions(runs: Sequence[Run]) -> list[Position]:
    """What each position of a conversation stands for."""
    return [position for run in runs for position in run.positions]


def count_common(first: Sequence[Position], second: Sequence[Position]) -> int:
    """Positions that both begin with."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((n for n, (one, other) in pairs if one != other), min(len(first), len(second)))


def image_ends(runs: Sequence[Run]) -> Iterator[tuple[ImageRun, int]]:
    """Each image, with the number of positions up to and including its last row."""
    end = 0
    for run in runs:
        end += run.n_tokens
        if isinstance(run, ImageRun):
            yield run, end


def up_to_last_image(runs: Sequence[Run]) -> Sequence[Run]:
    """The beginning of runs that ends with their last image; empty where there is none."""
    ends = [end for end, run in enumerate(runs, 1) if isinstance(run, ImageRun)]
    return runs[: ends[-1]] if ends else ()
