"""The seeded bundles, opened, on one CPU: tiny models gain nothing from a second, and waiting for it takes long."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_llava.bundle.bundle import Bundle


@pytest.fixture(autouse=True)
def one_cpu() -> Iterator[None]:
    """This process and its children run on one CPU, where the system allows to say so."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(usable)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, usable)


@pytest.fixture
def q4(seeded_q4: Path) -> Bundle:
    """The Q4_K_M bundle."""
    return Bundle.open(seeded_q4)


@pytest.fixture
def f32(seeded_f32: Path) -> Bundle:
    """The F32 bundle."""
    return Bundle.open(seeded_f32)
