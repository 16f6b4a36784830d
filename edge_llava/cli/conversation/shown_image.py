"""An image of a conversation, with the name that the user typed."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edge_llava.cli.images import open_image
from edge_llava.demo import find_image
from edge_llava.errors import ImageError
from edge_llava.home.files import digest_file

if TYPE_CHECKING:
    from edge_llava.home.image_files.alpha import Alpha
    from edge_llava.runtime.vision.image import Image
    from edge_llava.runtime.vision.image_embedding import ImageEmbedding


def find_file(name: str) -> Path | None:
    """The file of a name as `open_image` takes it; None for stdin and pipes, which can be read only once."""
    file = (find_image(name) or Path(name)).absolute()
    return file if name != "-" and os.path.isfile(file) else None


@dataclass
class ShownImage:
    """An image, or an embedding. Of a file, it need not stay in memory: it is opened again when it is needed.

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
        return cls(name, alpha, file, digest_file(file) if file is not None else "", is_embedding, content)

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
        if self.file is None:
            raise ImageError(f"{self.name} was not kept.")
        if self.has_changed:
            raise ImageError(f"{self.name} has changed since it was shown. Add it again: /image {self.name}")
        return self._read(self.file)

    def let_go(self) -> None:
        """Frees the memory of an image that can be opened again."""
        if self.file is not None:
            self._content = None

    def _read(self, file: Path) -> Image | ImageEmbedding:
        from edge_llava.runtime.vision.image_embedding import ImageEmbedding

        return ImageEmbedding.load(file) if self.is_embedding else open_image(str(file), self.alpha)
