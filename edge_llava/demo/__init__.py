"""A small LLaVA trained on drawn scenes, and pictures of scenes that were not in its training data."""

from __future__ import annotations

from pathlib import Path

CHECKPOINT = Path(__file__).parent / "llava-scenes"
PICTURES = Path(__file__).parent / "pictures"
