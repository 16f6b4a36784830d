"""The examples, and an image to ask about."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_llava import demo

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def shapes() -> Path:
    """An image that the demo knows to describe: a blue square, a green and a yellow star."""
    return demo.PICTURES / "shapes-1.jpg"


@pytest.fixture(scope="session")
def examples() -> Path:
    """The directory of the examples."""
    return ROOT / "examples"
