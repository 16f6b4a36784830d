"""How much a request may ask for. Everything is checked before it is decoded or computed."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Limits:
    """Caps of one request, and of all together.

    Attributes:
        body_bytes: Of a request's body, checked while it is read.
        n_values: Values of JSON that a body holds, as `ValueCount` counts them; 30,000 parts of messages fit.
        body_s: Seconds in which a body must have arrived.
        n_messages, n_parts: Messages of a request, parts of a message.
        text_chars: Characters of all texts of a request.
        n_images: Pictures of a request.
        image_bytes: Of one picture's file.
        image_pixels: Of all pictures of a request, decoded; a 4:3 photograph of 48 megapixels fits.
        held_bytes: Of the bodies, image files and decoded images of all requests at a time, with what decoding takes.
        n_requests: Requests that are read, waiting or answered at a time.
        n_connections: Connections of clients at a time, idle ones among them; more close the longest idle ones.
        header_s: Seconds from the first byte of a request, or from a client's connecting, to the end of its headers.
        header_bytes, n_headers: Of a request's line and headers.
        stalled_s: Seconds after which a reader that takes nothing is given up.

    Raises:
        ValueError: If one is not positive; all faults at once.
    """

    body_bytes: int = 32 * 2**20
    n_values: int = 100_000
    body_s: float = 60.0
    n_messages: int = 1024
    n_parts: int = 256
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
