"""Pictures of a request: data URIs, and addresses where that is allowed; capped before anything is decoded."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from PIL import UnidentifiedImageError
from PIL.Image import DecompressionBombError, DecompressionBombWarning

from edge_llava.errors import ImageError
from edge_llava.runtime.vision.image import Image
from edge_llava.runtime.vision.images.decoding_memory import OPENED_BYTES_PER_PIXEL, decoding_bytes
from edge_llava.runtime.vision.images.formats import FORMATS, open_image_file
from edge_llava.server.http.limits import Limits
from edge_llava.server.http.memory_budget import Share
from edge_llava.server.http.thread_call import call_on_thread
from edge_llava.server.images.image_data import ImageDataError, decode_image_data, find_scheme
from edge_llava.server.images.image_forms import ImageAddress
from edge_llava.server.images.image_threads import ImageThreads
from edge_llava.server.images.remote_images import RemoteImages
from edge_llava.server.openai.errors import RequestFault

TRUNCATED_HEADER = "x-edge-llava-truncated-images"
_N_TEXT_COPIES = 3  # of an image's base64, while it is decoded
# what PIL's readers raise on damaged headers
_HEADER_ERRORS = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError, RuntimeError)


@dataclass(frozen=True)
class _ImageFile:
    """An image as it was sent.

    Attributes:
        data: The file.
        param: Where it stands in the request.
        n_pixels: By its header.
        peak_bytes, kept_bytes: Memory that decoding it takes, and the decoded image.
    """

    data: bytes
    param: str
    n_pixels: int
    peak_bytes: int

    @property
    def kept_bytes(self) -> int:
        return self.n_pixels * OPENED_BYTES_PER_PIXEL


class ImageParts:
    """Turns what clients send for pictures into pictures.

    Attributes:
        limits: Caps of a request.
    """

    def __init__(self, limits: Limits, remote: RemoteImages | None, opener: Callable[[bytes], Image]) -> None:
        """
        Args:
            limits: Caps of a request.
            remote: Fetches pictures from the web; None refuses them.
            opener: Decodes an image file.
        """
        self.limits = limits
        self._remote, self._opener, self._threads = remote, opener, ImageThreads()

    async def open(self, addresses: Sequence[ImageAddress], share: Share) -> list[Image]:
        """Opens the images of one request: all headers are read before the first image is decoded.

        Raises:
            RequestFault: 400 if one is not allowed, no picture, or too large; 429 if there is no room for them now.
        """
        files, n_pixels = [], 0
        for address in addresses:
            data = await self._fetch(address, share)
            file = await self._threads.call(share, self._read_header, data, address.param)
            n_pixels += file.n_pixels
            if n_pixels > self.limits.image_pixels:
                raise _refused(
                    address.param,
                    f"the pictures have {n_pixels} pixels or more; a request may have {self.limits.image_pixels}. "
                    "Scale them down",
                )
            files.append(file)
        return [await self._threads.call(share, self._decode, file, share) for file in files]

    async def _fetch(self, address: ImageAddress, share: Share) -> bytes:
        scheme = find_scheme(address.url)
        if scheme in ("", "data"):
            with share.borrow(_N_TEXT_COPIES * sys.getsizeof(address.url)):
                data = await call_on_thread(self._read_text, address)
            share.take(len(data))
            return data
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

    def _read_text(self, address: ImageAddress) -> bytes:
        try:
            return decode_image_data(address.url, self.limits.image_bytes)
        except ImageDataError as error:
            raise _refused(address.param, str(error)) from error

    def _read_header(self, data: bytes, param: str) -> _ImageFile:
        try:
            with open_image_file(io.BytesIO(data), "the image") as image:
                return _ImageFile(
                    data, param, image.width * image.height, decoding_bytes(image.width, image.height, image.format)
                )
        except ImageError as error:
            raise _refused(param, str(error).rstrip(".")) from error
        except UnidentifiedImageError as error:
            raise _refused(param, f"the data is not an image of type {', '.join(FORMATS)} or HEIC") from error
        except (DecompressionBombError, DecompressionBombWarning) as error:
            raise _refused(param, "the picture has too many pixels. Scale it down") from error
        except _HEADER_ERRORS as error:
            raise _refused(param, "the picture's header is damaged") from error

    def _decode(self, file: _ImageFile, share: Share) -> Image:
        share.take(file.kept_bytes)
        try:
            with share.borrow(file.peak_bytes - file.kept_bytes):
                return self._opener(file.data)
        except ImageError as error:
            raise _refused(file.param, str(error).rstrip(".")) from error


def truncated_headers(images: Sequence[Image]) -> dict[str, str]:
    """The header that lists the images of a request whose files lack their end, counted from 1; none without any."""
    numbers = [str(number) for number, image in enumerate(images, 1) if image.truncated]
    return {TRUNCATED_HEADER: ", ".join(numbers)} if numbers else {}


def _refused(param: str, why: str) -> RequestFault:
    return RequestFault(400, f"Invalid image at '{param}': {why}.", code="invalid_image", param=param)
