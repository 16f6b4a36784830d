"""Random images, in the form in which clients send them."""

from __future__ import annotations

import base64
import io
import random

import numpy as np
from PIL import Image


def image_uri(rng: random.Random, kind: str, size: tuple[int, int]) -> str:
    """A data URI of random coloured areas: kind "JPEG", "PNG" or "WEBP"; width and height in pixels."""
    pixels = np.random.default_rng(rng.getrandbits(32)).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize(size).save(file, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
