"""Decodes the text of an image as clients send it, a data: URI or bare base64, to the bytes of the file.

It accepts the alphabets of RFC 4648, sections 4 and 5, with or without padding, white space and percent-encoding
(RFC 2397, RFC 3986). It ignores the media type: the content decides. It takes linear time, and memory for two copies
of the text.
"""

from __future__ import annotations

import binascii
import re

_SCHEME = re.compile(r"\s*([a-z][a-z0-9+.-]{0,30})\s*:", re.IGNORECASE)
_MAX_HEAD = 1024  # characters before the content
_MAX_HEADS = 2  # a client may add its own to one that its user wrote
_BASE64_HEAD = re.compile(r".*?;\s*base64\s*,", re.IGNORECASE | re.DOTALL)
_WHITE_SPACE = b" \t\r\n\f\v"
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_PERCENT_ENCODED = ((b"%2B", b"+"), (b"%2F", b"/"), (b"%3D", b"="), (b"%0A", b""), (b"%0D", b""), (b"%20", b""))
_DIGITS = re.compile(rb"[A-Za-z0-9+/]+")


class ImageDataError(Exception):
    """A text that is not an image file. Its message says why."""


def find_scheme(text: str) -> str:
    """The scheme of an address, in lower case: "data", "https"; "" for a text without one."""
    found = _SCHEME.match(text[:_MAX_HEAD])
    return found[1].lower() if found else ""


def decode_image_data(text: str, n_bytes_max: int) -> bytes:
    """Decodes a data: URI or base64.

    Args:
        text: What the client sent.
        n_bytes_max: Largest size of the file; checked before anything is decoded.

    Raises:
        ImageDataError: If it is neither, empty, or larger.
    """
    try:
        data = _skip_head(text).encode("ascii")
    except UnicodeEncodeError as error:
        raise ImageDataError("it is not valid base64") from error
    if b"%" in data:
        for encoded, plain in _PERCENT_ENCODED:
            data = data.replace(encoded, plain).replace(encoded.lower(), plain)
    # one name for every step, so that each frees the result of the one before
    data = data.translate(_URL_SAFE, delete=_WHITE_SPACE)
    data = data.rstrip(b"=")
    if not data:
        raise ImageDataError("the image is empty")
    if len(data) * 3 // 4 > n_bytes_max:
        raise ImageDataError(f"an image may have at most {n_bytes_max} bytes")
    if _DIGITS.fullmatch(data) is None or len(data) % 4 == 1:
        raise ImageDataError("it is not valid base64")
    data += b"=" * (-len(data) % 4)
    return binascii.a2b_base64(data)


def _skip_head(text: str) -> str:
    """Returns what follows "data:...," in a data: URI, and any other text as it is."""
    for _ in range(_MAX_HEADS):
        if find_scheme(text) != "data":
            break
        head = _BASE64_HEAD.match(text[:_MAX_HEAD])
        end = head.end() if head else text.find(",", 0, _MAX_HEAD) + 1
        if not end:
            raise ImageDataError("a data: URI must have a comma before its content: 'data:image/jpeg;base64,...'")
        text = text[end:]
    return text
