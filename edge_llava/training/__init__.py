"""LLaVA's own recipe: instruction data from captions and boxes, then two stages of training. Extra: [train]."""

from __future__ import annotations

from importlib.util import find_spec

from edge_llava.errors import MissingExtra


def require_training() -> None:
    """
    Raises:
        MissingExtra: If the [train] extra is not installed; found without importing it.
    """
    for package in ("torch", "transformers", "accelerate", "peft", "sentencepiece", "safetensors", "matplotlib"):
        if find_spec(package) is None:
            raise MissingExtra("train", "training", package)
