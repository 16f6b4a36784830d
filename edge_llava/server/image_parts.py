"""Pictures of a request: data URIs, and addresses where that is allowed; capped before anything is decoded."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace

from PIL import Image, UnidentifiedImageError

from edge_llava.server.image_data import ImageDataError, decode_image_data, find_scheme
from edge_llava.server.image_forms import ImageAddress
from edge_llava.server.limits import Limits
from edge_llava.server.memory_budget import Share
from edge_llava.server.openai_errors import RequestFault
from edge_llava.server.remote_images import RemoteImages
from edge_llava.server.thread_call import call_on_thread

# Of PIL's readers those of the web: others start programs (EPS) or are hardly ever looked at.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
_RGB_BYTES = 3
# what PIL's readers raise on damaged headers
_HEADER_ERRORS = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError, RuntimeError)


class ImageParts:
    """Turns what clients send for pictures into pictures.

    Attributes:
        limits: Caps of a request.
    """

    def __init__(self, limits: Limits, remote: RemoteImages | None) -> None:
        """
        Args:
            limits: Caps of a request.
            remote: Fetches pictures from the web; None refuses them.
        """
        self.limits = limits
        self._remote = remote

    async def open(self, addresses: Sequence[ImageAddress], share: Share) -> list[Image.Image]:
        """Opens the pictures of one request; their headers are read, their pixels are not.

        Raises:
            RequestFault: 400 if one is not allowed, no picture, or too large; 429 if there is no room for them now.
        """
        pictures, n_pixels = [], 0
        for address in addresses:
            data = await self._fetch(address, share)
            picture = await call_on_thread(self._read_header, data, address.param)
            n_pixels += picture.width * picture.height
            if n_pixels > self.limits.image_pixels:
                raise _refused(
                    address.param,
                    f"the pictures have {n_pixels} pixels or more; a request may have {self.limits.image_pixels}. "
                    "Scale them down",
                )
            pictures.append(picture)
        share.take(n_pixels * _RGB_BYTES)
        return pictures

    async def _fetch(self, address: ImageAddress, share: Share) -> bytes:
        scheme = find_scheme(address.url)
        if scheme in ("", "data"):
            return await call_on_thread(self._decode, address)
        if scheme in ("http", "https") and address.may_fetch:
            if self._remote is None:
                raise _refused(
                    address.param,
                    "pictures are not fetched from the web. Send a data: URI, or start the server with "
                    "--allow-remote-images",
                )
            data = await self._remote.fetch(replace(address, url=address.url.strip()))
            share.take(len(data))
            return data
        raise _refused(address.param, "an image must be a data: URI, 'data:image/jpeg;base64,...', or base64")

    def _decode(self, address: ImageAddress) -> bytes:
        try:
            return decode_image_data(address.url, self.limits.image_bytes)
        except ImageDataError as error:
            raise _refused(address.param, str(error)) from error

    def _read_header(self, data: bytes, param: str) -> Image.Image:
        try:
            return Image.open(io.BytesIO(data), formats=_FORMATS)
        except UnidentifiedImageError as error:
            raise _refused(param, f"the data is no picture of type {', '.join(_FORMATS)}") from error
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise _refused(param, "the picture has too many pixels. Scale it down") from error
        except _HEADER_ERRORS as error:
            raise _refused(param, "the picture's header is damaged") from error


def _refused(param: str, why: str) -> RequestFault:
    return RequestFault(400, f"Invalid image at '{param}': {why}.", code="invalid_image", param=param)
