"""An image of a conversation, with the name that the user typed."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edge_llava.demo import find_image
from edge_llava.errors import ImageError
from edge_llava.home.files import digest_file

if TYPE_CHECKING:
    from edge_llava.home.image_files.alpha import Alpha
    from edge_llava.runtime.vision.image import Image
    from edge_llava.runtime.vision.image_embedding import ImageEmbedding


MAX_HELD_BYTES = 8_000_000


def find_file(name: str) -> Path | None:
    """The file of a name as `open_image` takes it; None for stdin and pipes, which can be read only once."""
    file = (find_image(name) or Path(name)).absolute()
    return file if name != "-" and os.path.isfile(file) else None


@dataclass
class ShownImage:
    """An image, or an embedding. Of a file, it is opened again when it is needed.

    Image files of at most `MAX_HELD_BYTES` are held in memory, as they were when they were shown.

    Attributes:
        name: For people.
        alpha: What becomes of transparency.
        file: None for an image of the clipboard, the screen or stdin.
        sha256: Of the file; "" without one.
        is_embedding: Whether the file holds an embedding.
    """

    name: str
    alpha: Alpha
    file: Path | None = None
    sha256: str = ""
    is_embedding: bool = False
    _content: Image | ImageEmbedding | None = field(default=None, repr=False)
    _held: bytes | None = field(default=None, init=False, repr=False)

    @classmethod
    def of(
        cls,
        name: str,
        content: Image | ImageEmbedding,
        alpha: Alpha,
        *,
        file: Path | None,
        is_embedding: bool = False,
    ) -> ShownImage:
        """An image that was opened; `file` is where from, as of `find_file`."""
        image = cls(name, alpha, file, digest_file(file) if file is not None else "", is_embedding, content)
        if file is not None:
            image._hold(file)
        return image

    @property
    def is_in_memory(self) -> bool:
        """Whether it can be opened without its file."""
        return self._content is not None or self._held is not None

    @property
    def has_changed(self) -> bool:
        """Whether the file holds something else by now.

        Raises:
            ImageError: If the file is gone.
        """
        if self.file is None:
            return False
        try:
            return digest_file(self.file) != self.sha256
        except OSError as error:
            raise ImageError(f"{self.name} cannot be read any more: {error.strerror}.") from error

    def accept_change(self) -> None:
        """Takes the file as it is now."""
        if self.file is not None:
            self.sha256 = digest_file(self.file)

    def open(self) -> Image | ImageEmbedding:
        """The image or the embedding.

        Raises:
            ImageError: If its file is gone, has changed since, or cannot be read.
        """
        if self._content is not None:
            return self._content
        if self._held is not None:
            return self._read(self._held)
        if self.file is None:
            raise ImageError(f"{self.name} was not kept.")
        if self.has_changed:
            raise ImageError(f"{self.name} has changed since it was shown. Add it again: /image {self.name}")
        self._hold(self.file)
        return self._read(self._held or self.file)

    def let_go(self) -> None:
        """Frees the pixels of an image that can be opened again."""
        if self.file is not None:
            self._content = None

    def _hold(self, file: Path) -> None:
        with contextlib.suppress(OSError):  # opening it again will say why
            if not self.is_embedding and file.stat().st_size <= MAX_HELD_BYTES:
                self._held = file.read_bytes()

    def _read(self, source: Path | bytes) -> Image | ImageEmbedding:
        from edge_llava.runtime.vision.image import Image
        from edge_llava.runtime.vision.image_embedding import ImageEmbedding

        if self.is_embedding and isinstance(source, Path):
            return ImageEmbedding.load(source)
        return Image.open(source, alpha=self.alpha)
