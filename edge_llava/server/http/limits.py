"""Limits of a request. Each is checked before anything is decoded or computed."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Limits:
    """Limits of one request, and of all requests together.

    Attributes:
        body_bytes: Size of a request's body, checked while it is read.
        n_values: JSON values in a body, as counted by `JsonValueCounter`; enough for 30,000 parts of messages.
        body_s: Seconds within which a body must arrive.
        text_chars: Characters of all texts of a request.
        n_images: Images in a request.
        image_bytes: Size of one image file.
        image_pixels: Pixels of all images of a request together; a 4:3 photograph of 48 megapixels fits.
        held_bytes: Memory for the bodies, image files and decoded images of all requests, including the decoding.
        n_requests: Requests that may be read, waiting or answered at the same time.
        n_connections: Connections of clients, including idle ones; beyond it, the longest idle ones are closed.
        header_s: Seconds from the first byte of a request, or from the connection, to the end of the headers.
        header_bytes, n_headers: Size of a request's line and headers, and their number.
        stalled_s: Seconds after which a client that reads nothing is disconnected.

    Raises:
        ValueError: If any is not positive; the message names all of them.
    """

    body_bytes: int = 32 * 2**20
    n_values: int = 100_000
    body_s: float = 60.0
    text_chars: int = 1_000_000
    n_images: int = 16
    image_bytes: int = 20 * 2**20
    image_pixels: int = 50_000_000
    held_bytes: int = 2**30
    n_requests: int = 256
    n_connections: int = 512
    header_s: float = 20.0
    header_bytes: int = 65_536
    n_headers: int = 128
    stalled_s: float = 60.0

    def __post_init__(self) -> None:
        faults = [f"{field.name} must be above 0" for field in fields(self) if not getattr(self, field.name) > 0]
        if faults:
            raise ValueError("; ".join(faults))
