"""Captions as the descriptions of images, where photo managers look for them."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge_llava.captioning.metadata.image_metadata import describe_image, describe_sidecar
from edge_llava.home.files import atomic_file
from edge_llava.home.regular_file import open_regular, sign

Place = Literal["image", "xmp"]
_MAX_BYTES = 1 << 30
_SIDECAR_SUFFIX = ".xmp"


@dataclass(frozen=True)
class Description:
    """A file that is to be written, and is not yet.

    Attributes:
        path: The file that is replaced or made.
        data: What it will contain.
        image_sha256: The digest of the image file once this is written; None if the image itself stays as it is.
        before: What the file was when it was read; None if there was none.
    """

    path: Path
    data: bytes
    image_sha256: str | None
    before: os.stat_result | None


class Descriptions:
    """Puts captions into image files, or into XMP sidecars (IMG.jpg.xmp).

    Attributes:
        n_written: Files written.
        n_kept: Descriptions that were there and stay.
    """

    def __init__(self, place: Place, *, replace: bool) -> None:
        """
        Args:
            place: "image": XMP and EXIF of the image file itself; "xmp": a sidecar.
            replace: Replace descriptions that are there.
        """
        self._place, self._replace = place, replace
        self.n_written = self.n_kept = 0
        self._made: set[str] = set()  # sha256 of images as they are written

    def prepare(self, path: Path, sha256: str, text: str) -> Description | None:
        """What an image's description changes; None if it stays as it is.

        Args:
            path: The image. Of a link, the target is described.
            sha256: Digest of the bytes that the text is about.
            text: The description.

        Raises:
            ImageError: If the file cannot hold a description, or is damaged.
            OSError: If it cannot be read, or has other bytes.
        """
        if self._place == "xmp":
            described = self._prepare_sidecar(path.with_name(path.name + _SIDECAR_SUFFIX), text)
        else:
            described = self._prepare_image(Path(os.path.realpath(path)), sha256, text)
        return described

    def write(self, description: Description) -> None:
        """Replaces the file as a whole; its permissions stay.

        Raises:
            OSError: If it cannot be written, or was changed since it was read.
        """
        path, before = description.path, description.before
        if before is None:
            with atomic_file(path) as file:
                file.write(description.data)
        else:
            mode = stat.S_IMODE(os.stat(path).st_mode)
            with atomic_file(path, mode) as file:
                file.write(description.data)
                file.flush()
                if sign(os.stat(path)) != sign(before):
                    raise OSError(errno.EBUSY, "it was changed meanwhile")
            path.chmod(mode)  # whatever umask is
        self.n_written += 1

    def _prepare_image(self, path: Path, sha256: str, text: str) -> Description | None:
        data, before = _read(path)
        now = hashlib.sha256(data).hexdigest()
        if now != sha256 and now in self._made:  # by another name of the same file
            return None
        if now != sha256:
            raise OSError(errno.EBUSY, "it was changed meanwhile")
        described = describe_image(data, text, str(path), replace=self._replace)
        if described is None:
            self.n_kept += 1
            return None
        image_sha256 = hashlib.sha256(described).hexdigest()
        self._made.add(image_sha256)
        return Description(path, described, image_sha256, before)

    def _prepare_sidecar(self, path: Path, text: str) -> Description | None:
        data, before = _read(path) if os.path.lexists(path) else (b"", None)
        described = describe_sidecar(data, text, str(path), replace=self._replace)
        self.n_kept += described is None
        return None if described is None else Description(path, described, None, before)


def _read(path: Path) -> tuple[bytes, os.stat_result]:
    with open_regular(path, _MAX_BYTES) as file:
        before = os.fstat(file.fileno())
        data = file.read()
    if not os.access(path, os.W_OK):  # a rename would not ask
        raise PermissionError(errno.EACCES, "it is read-only")
    return data, before
