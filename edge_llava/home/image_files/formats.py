"""The image formats that are read, and the one place that has Pillow open a file."""

from __future__ import annotations

from typing import IO

from PIL import Image, ImageFile

from edge_llava.errors import ImageError
from edge_llava.home.image_files.jpeg import check_jpeg
from edge_llava.home.image_files.work_limits import check_work, strip_comments
from edge_llava.home.installation import install_command

# Pillow tries all of its forty readers unless it is given a list: some start programs (EPS: Ghostscript),
# others have a record of memory errors and are hardly ever used (FITS, PSD, McIdas). MPO is read as JPEG.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "TGA")  # TGA last: it has no magic
HEIF_SUFFIXES = frozenset((".heic", ".heif", ".hif"))
SUFFIXES = HEIF_SUFFIXES | frozenset(
    (
        ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff",
        ".avif", ".avifs", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".tga",
    )
)  # fmt: skip
TRUNCATED = "truncated"  # key of `Image.info`

_LAZY_FORMATS = (*FORMATS, "MPO", "HEIF", "DIB")
_HEAD_BYTES = 64
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
_AVIF_BRANDS = (b"avif", b"avis")
_FOREIGN = (
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (b"8BPS", "a Photoshop file"),
    (b"%!PS", "a PostScript file"),
    (b"\xc5\xd0\xd3\xc6", "a PostScript file"),
    (b"%PDF", "a PDF file"),
    (b"SIMPLE  =", "a FITS file"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "an XML file, such as an SVG drawing"),
    (b"<!DOCTYPE", "an HTML or XML file"),
    (b"<html", "an HTML file"),
)


def open_image_file(file: IO[bytes], what: str) -> ImageFile.ImageFile:
    """Reads the header of an image file; its pixels are decoded by `load()`.

    A JPEG file that ends early is completed, and has `TRUNCATED` in its `info`.

    Args:
        file: Read from its beginning, and kept open until the pixels are loaded.
        what: Names it in errors.

    Raises:
        ImageError: If the format is not read here, or decoding would take unreasonably long for its number of pixels.
        OSError, SyntaxError, ValueError, ...: What Pillow raises on a damaged header.
    """
    head = _read_head(file)
    if is_heif(head):
        return _open_heif(file, what)
    is_truncated = False
    if head.startswith(b"\xff\xd8"):
        file, is_truncated = check_jpeg(file, what)
    elif head[:2] in (b"P1", b"P2", b"P3"):
        file = strip_comments(file, what)
    for magic, kind in _FOREIGN:
        if head.removeprefix(b"\xef\xbb\xbf").startswith(magic):
            raise ImageError(f"{what} is {kind}, which is not read here. Convert it to JPEG or PNG.")
    image = Image.open(file, formats=FORMATS)
    check_work(image, what)
    if is_truncated:
        image.info[TRUNCATED] = True
    return image


def check_opened(image: Image.Image, what: str) -> Image.Image:
    """Checks an image that a caller opened with Pillow, and that may not be decoded yet.

    Returns:
        The image, or the same one opened again where its file must be completed.

    Raises:
        ImageError: As `open_image_file`.
    """
    if not isinstance(image, ImageFile.ImageFile):
        return image
    if isinstance(image, ImageFile.StubImageFile) or (image.tile and image.format not in _LAZY_FORMATS):
        raise ImageError(
            f"{what} is of the format {image.format}, which is not read here, and its pixels are not loaded yet. "
            "Convert it, or call its load() yourself if you trust the file."
        )
    if image.tile and image.format in ("JPEG", "MPO") and image.fp is not None and image.tell() == 0:
        position = image.fp.tell()
        image.fp.seek(0)
        file, is_truncated = check_jpeg(image.fp, what)
        image.fp.seek(position)
        if is_truncated:
            image = open_image_file(file, what)
            image.info[TRUNCATED] = True
        return image
    if image.tile:
        check_work(image, what)
    return image


def is_heif(head: bytes) -> bool:
    """Whether a file that begins so is HEIC or HEIF, and not AVIF, whose container is the same."""
    if head[4:8] != b"ftyp":
        return False
    size = int.from_bytes(head[:4], "big")
    brands = [head[8:12], *(head[start : start + 4] for start in range(16, min(size, len(head)), 4))]
    return not any(brand in _AVIF_BRANDS for brand in brands) and any(
        brand in (*_HEIC_BRANDS, b"mif1", b"msf1") for brand in brands
    )


def reads_heif() -> bool:
    """Whether the package that reads HEIC is installed."""
    try:
        import pillow_heif  # noqa: F401
    except ImportError:
        return False
    return True


def _open_heif(file: IO[bytes], what: str) -> ImageFile.ImageFile:
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise ImageError(
            f"{what} is a HEIC image, which needs the package 'pillow_heif'. Convert the image to JPEG, or install it: "
            f"{install_command('heic')}"
        ) from error
    opened: ImageFile.ImageFile = HeifImageFile(file)  # not registered: Pillow stays as the application has it
    return opened


def _read_head(file: IO[bytes]) -> bytes:
    head = file.read(_HEAD_BYTES)
    file.seek(0)
    return head
