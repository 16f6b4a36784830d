"""Checks that this installation or frozen app computes correctly. It needs no network and uses only the runtime."""

from __future__ import annotations

from pathlib import Path

# A LLaVA of 0.1 million random weights in F32; tests/data/bundles/write.py writes it.
BUNDLE = Path(__file__).parent / "bundle"
