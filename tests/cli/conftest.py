"""An image to ask about."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def photo() -> Path:
    """The sample image, a JPEG of 640 x 480."""
    return Path(__file__).parents[1] / "data" / "table.jpg"
