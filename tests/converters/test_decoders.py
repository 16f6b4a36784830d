"""Each kind of language model, from its config to llama.cpp's logits, against transformers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_llava.bundle.bundle import Bundle
from edge_llava.converters.checkpoint_config import read_checkpoint_config
from edge_llava.converters.decoders import DIALECTS, LLAMA, MISTRAL, QWEN2, find_dialect, find_llava_dialect
from edge_llava.converters.rope import Llama3Scaling, read_rope
from edge_llava.errors import CheckpointError, ConversionError

pytestmark = pytest.mark.convert

LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
# The shape of Qwen2-0.5B, narrower: seven query heads for each key/value head, and a tied head.
QWEN = {"model_type": "qwen2", "width": 112, "heads": 14, "kv_heads": 2, "tied": True, "text": {"rope_theta": 1e6}}
SHAPES: dict[str, dict[str, Any]] = {
    "qwen2, tied": QWEN,
    "qwen2, own head": QWEN | {"tied": False, "width": 64, "heads": 4, "kv_heads": 4},
    "qwen2, linear rope": QWEN | {"text": {"rope_theta": 1e6, "rope_scaling": {"rope_type": "linear", "factor": 4.0}}},
    "qwen2, window": QWEN | {"text": {"use_sliding_window": True, "sliding_window": 256, "max_window_layers": 1}},
    "llama3 rope": {"kv_heads": 2, "text": {"rope_theta": 5e5, "rope_scaling": LLAMA3}},
    "mistral": {"model_type": "mistral", "kv_heads": 2, "text": {"sliding_window": 384, "head_dim": 32}},
}
N_POSITIONS = 200  # three times `original_max_position_embeddings`


@pytest.fixture(scope="module")
def made(make_llava: Callable[..., Path], shape: Any) -> Callable[[str], Path]:
    """made(name of a shape) -> its checkpoint. Read only: copy it before changing it."""
    directories: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in directories:
            directories[name] = make_llava(shape(**SHAPES[name]), 61)
        return directories[name]

    return make


def open_checkpoint(directory: Path) -> Any:
    from edge_llava.converters.checkpoint import Checkpoint

    return Checkpoint.open(str(directory))


def check_reading(directory: Path) -> None:
    from edge_llava.converters.reference_model import check_reading

    check_reading(open_checkpoint(directory))


def theirs(directory: Path, ids: list[int]) -> np.ndarray:
    """Logits (T, V) of a text by transformers."""
    import torch
    from transformers import LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids])).logits[0, :, :512].numpy()


def ours(bundle: Bundle, ids: list[int]) -> np.ndarray:
    """Logits (T, V) of the same text by llama.cpp."""
    from edge_llava.parity.one_sequence import OneSequence
    from edge_llava.runtime.language.decoder import Decoder
    from edge_llava.runtime.options import DecoderOptions

    options = DecoderOptions(n_ctx=len(ids), n_threads=2, repack=False)
    decoder = Decoder(bundle.file("language"), bundle.manifest.language, options)
    try:
        sequence, logits = OneSequence(decoder), []
        for id_ in ids:
            sequence.decode(id_)
            logits.append(sequence.logits())
        return np.stack(logits)
    finally:
        decoder.close()


@pytest.mark.parametrize("name", SHAPES)
def test_logits_equal_transformers(made, convert_to, name):
    """Of every position, far beyond the trained context where rotary positions are scaled."""
    bundle = Bundle.open(convert_to(made(name), quant="F32"))
    ids = [1, *np.random.default_rng(3).integers(3, 512, N_POSITIONS - 1).tolist()]
    expected, found = theirs(made(name), ids), ours(bundle, ids)
    assert expected.std() > 0.5
    assert np.abs(found - expected).max() <= 1e-4
    assert (found.argmax(-1) == expected.argmax(-1)).all()
    language = bundle.manifest.parity["language"]
    assert language.max_abs <= 1e-4
    assert language.tokens_equal == language.tokens_total
