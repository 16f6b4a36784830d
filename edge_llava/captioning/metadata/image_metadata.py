"""The description inside an image file, whatever its format."""

from __future__ import annotations

import io
from typing import Protocol

import PIL.Image

from edge_llava.captioning.metadata import tiff, xmp
from edge_llava.captioning.metadata.jpeg import JpegFile
from edge_llava.captioning.metadata.png import SIGNATURE, PngFile
from edge_llava.captioning.metadata.webp import WebpFile
from edge_llava.errors import ImageError
from edge_llava.home.border import blaming_file

_ADVICE = "Write its description to a sidecar: --write-metadata xmp."


class _File(Protocol):
    def find_description(self) -> str: ...

    def with_description(self, text: str) -> bytes: ...


def describe_image(data: bytes, text: str, what: str, *, replace: bool) -> bytes | None:
    """An image file with a description: in XMP, and for JPEG and TIFF in EXIF's ImageDescription, too.

    Args:
        data: A JPEG, PNG, WebP or TIFF file. What it contains besides is kept, its pixels as they are encoded.
        text: The description.
        what: Names the file in errors.
        replace: Replace a description that it has already.

    Returns:
        The other bytes; None if the file has a description that is kept, or this one already, or if the text is empty.

    Raises:
        ImageError: If the format is another one, the file is damaged, or has no room.
    """
    with blaming_file(ImageError, what, _ADVICE, "cannot be given a description"):
        file, text = _open(data, what), xmp.clean(text)
        found = file.find_description()
        return file.with_description(text) if _is_wanted(found, text, replace) else None


def describe_sidecar(packet: bytes, text: str, what: str, *, replace: bool) -> bytes | None:
    """An XMP sidecar with a description.

    Args:
        packet: What the sidecar contains, which is kept; empty for a new one.
        text, what, replace: As of `describe_image`.

    Returns:
        As `describe_image`.

    Raises:
        ImageError: If the sidecar is not XMP.
    """
    with blaming_file(ImageError, what, "Move it away, and run the same command again.", "is not XMP"):
        text = xmp.clean(text)
        if text and not packet.strip():
            return xmp.new_packet(text, for_sidecar=True)
        found = xmp.find_description(packet) if packet else ""
        return xmp.set_description(packet, text) if _is_wanted(found, text, replace) else None


def _is_wanted(found: str, text: str, replace: bool) -> bool:
    return text != "" and (not found or (replace and found != text))


class _TiffFile:
    def __init__(self, data: bytes) -> None:
        self._directory = tiff.Directory(data)

    def find_description(self) -> str:
        packet = self._directory.find(tiff.XMP_PACKET)
        found = xmp.find_description(packet.rstrip(b"\0")) if packet else ""
        return found or tiff.find_text(self._directory)

    def with_description(self, text: str) -> bytes:
        packet = (self._directory.find(tiff.XMP_PACKET) or b"").rstrip(b"\0")
        new = xmp.set_description(packet, text) if packet else xmp.new_packet(text)
        return self._directory.with_values(
            {tiff.IMAGE_DESCRIPTION: tiff.text_value(text), tiff.XMP_PACKET: (tiff.BYTE, new)}
        )


def _open(data: bytes, what: str) -> _File:
    if data.startswith(b"\xff\xd8"):
        return JpegFile(data)
    if data.startswith(SIGNATURE):
        return PngFile(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        with PIL.Image.open(io.BytesIO(data), formats=("WEBP",)) as image:
            return WebpFile(data, image.size, has_alpha=image.mode == "RGBA")
    if data[:2] in (b"II", b"MM"):
        return _TiffFile(data)
    raise ImageError(
        f"descriptions can be written only into JPEG, PNG, WebP and TIFF files; {what} is none of these. {_ADVICE}"
    )
