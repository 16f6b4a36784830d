"""For the benchmarks: they are checked for what they count, never for how fast anything is."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def photo() -> Path:
    """The sample image, a JPEG of 640 x 480."""
    return Path(__file__).parents[1] / "data" / "table.jpg"
