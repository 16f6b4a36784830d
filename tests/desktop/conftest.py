"""The demo as a bundle, which gives real answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edge_llava import demo

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def demo_bundle(convert_to: Callable[..., Path]) -> Path:
    """The embedded demo, Q8_0 with a float tower. Read only."""
    return convert_to(demo.CHECKPOINT, quant="Q8_0", vision="fp32")


@pytest.fixture(scope="session")
def shapes() -> Path:
    """A picture that the demo knows to describe: a blue square, a green and a yellow star."""
    return demo.PICTURES / "shapes-1.jpg"


@pytest.fixture(scope="session")
def examples() -> Path:
    """The directory of the examples."""
    return ROOT / "examples"
