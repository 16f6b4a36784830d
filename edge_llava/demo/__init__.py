"""A LLaVA that has learned to talk about drawn scenes, and pictures of scenes that it has never seen."""

from __future__ import annotations

from pathlib import Path

CHECKPOINT = Path(__file__).parent / "llava-scenes"
PICTURES = Path(__file__).parent / "pictures"
