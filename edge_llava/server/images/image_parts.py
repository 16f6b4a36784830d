"""Images of a request: data: URIs, and web addresses if allowed; limits are checked before anything is decoded."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from PIL import UnidentifiedImageError
from PIL.Image import DecompressionBombError, DecompressionBombWarning

from edge_llava.errors import ImageError
from edge_llava.home.image_files.decoding_memory import OPENED_BYTES_PER_PIXEL, decoding_bytes
from edge_llava.home.image_files.formats import FORMATS, open_image_file
from edge_llava.runtime.vision.image import Image
from edge_llava.server.http.answer_headers import TRUNCATED
from edge_llava.server.http.errors import RequestError
from edge_llava.server.http.limits import Limits
from edge_llava.server.http.memory_budget import MemoryLease
from edge_llava.server.http.thread_call import call_on_thread
from edge_llava.server.images.image_address import ImageAddress
from edge_llava.server.images.image_data import ImageDataError, decode_image_data, find_scheme
from edge_llava.server.images.image_threads import ImageThreads
from edge_llava.server.images.remote_images import RemoteImages

_N_TEXT_COPIES = 3  # of an image's base64 while it is decoded
# what Pillow's readers raise on damaged headers
_HEADER_ERRORS = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError, RuntimeError)


@dataclass(frozen=True)
class _ImageFile:
    """An image as it was sent.

    Attributes:
        data: The file.
        param: Its place in the request.
        n_pixels: The number of pixels according to its header.
        peak_bytes, kept_bytes: Memory that its decoding takes, and that of the decoded image.
    """

    data: bytes
    param: str
    n_pixels: int
    peak_bytes: int

    @property
    def kept_bytes(self) -> int:
        return self.n_pixels * OPENED_BYTES_PER_PIXEL


class ImageParts:
    """Opens the images that clients send.

    Attributes:
        limits: Limits of a request.
    """

    def __init__(self, limits: Limits, remote: RemoteImages | None, opener: Callable[[bytes], Image]) -> None:
        """
        Args:
            limits: Limits of a request.
            remote: Fetches images from the web; None refuses them.
            opener: Decodes an image file.
        """
        self.limits = limits
        self._remote, self._opener, self._threads = remote, opener, ImageThreads()

    async def open(self, addresses: Sequence[ImageAddress], lease: MemoryLease) -> list[Image]:
        """Opens the images of one request: all headers are read before the first image is decoded.

        Raises:
            RequestError: 400 if one is not allowed, not an image, or too large; 429 if there is no memory for them now.
        """
        files, n_pixels = [], 0
        for address in addresses:
            data = await self._fetch(address, lease)
            file = await self._threads.call(lease, self._read_header, data, address.param)
            n_pixels += file.n_pixels
            if n_pixels > self.limits.image_pixels:
                raise _refused(
                    address.param,
                    f"the images have {n_pixels} pixels or more; a request may have {self.limits.image_pixels}. "
                    "Scale them down",
                )
            files.append(file)
        return [await self._threads.call(lease, self._decode, file, lease) for file in files]

    async def _fetch(self, address: ImageAddress, lease: MemoryLease) -> bytes:
        scheme = find_scheme(address.url)
        if scheme in ("", "data"):
            with lease.borrow(_N_TEXT_COPIES * sys.getsizeof(address.url)):
                data = await call_on_thread(self._read_text, address)
            lease.take(len(data))
            return data
        if scheme in ("http", "https") and address.may_fetch:
            if self._remote is None:
                raise _refused(
                    address.param,
                    "images are not fetched from the web. Send a data: URI, or start the server with "
                    "--allow-remote-images",
                )
            data = await self._remote.fetch(replace(address, url=address.url.strip()))
            lease.take(len(data))
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
            raise _refused(param, "the image has too many pixels. Scale it down") from error
        except _HEADER_ERRORS as error:
            raise _refused(param, "the image's header is damaged") from error

    def _decode(self, file: _ImageFile, lease: MemoryLease) -> Image:
        lease.take(file.kept_bytes)
        try:
            with lease.borrow(file.peak_bytes - file.kept_bytes):
                return self._opener(file.data)
        except ImageError as error:
            raise _refused(file.param, str(error).rstrip(".")) from error


def truncated_headers(images: Sequence[Image]) -> dict[str, str]:
    """The header that lists the truncated images of a request, counted from 1; none if no image is truncated."""
    numbers = [str(number) for number, image in enumerate(images, 1) if image.truncated]
    return {TRUNCATED: ", ".join(numbers)} if numbers else {}


def _refused(param: str, why: str) -> RequestError:
    return RequestError(400, f"Invalid image at '{param}': {why}.", code="invalid_image", param=param)
