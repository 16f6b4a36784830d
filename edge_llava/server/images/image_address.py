"""An image as a client sent it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ImageAddress:
    """An image that was not opened yet.

    Attributes:
        url: A data: URI, base64, or an address on the web.
        param: Its place in the request.
        may_fetch: Whether it may be an address on the web.
    """

    url: str
    param: str
    may_fetch: bool = True
