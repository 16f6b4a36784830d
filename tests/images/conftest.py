"""Pixels by seed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray


@pytest.fixture(scope="session")
def noise() -> Callable[..., NDArray[np.uint8]]:
    """noise(width, height, seed=0) -> uint8 (height, width, 3)."""

    def make(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
        return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)

    return make
