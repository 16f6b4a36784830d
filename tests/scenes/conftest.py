"""Scenes of both splits, and an independent solver."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

from edge_llava.scenes.scene import SPLITS, Scene, sample_scenes


@pytest.fixture(scope="session")
def scenes() -> list[Scene]:
    """1,500 scenes of each split."""
    return [scene for split in SPLITS for scene in islice(sample_scenes(split, 11), 1500)]


@pytest.fixture(scope="session")
def solve() -> Callable[[Scene, str], str | None]:
    """solve(scene, question) -> the answer, or None if it is ambiguous."""
    solver: Callable[[Scene, str], str | None] = runpy.run_path(str(Path(__file__).with_name("solver.py")))["solve"]
    return solver
