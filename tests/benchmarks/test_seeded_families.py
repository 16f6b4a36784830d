"""transformers opens what is written and we convert it, and both compute as many positions for a photograph."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_llava import DecoderOptions, EngineOptions, SamplingOptions, load

pytestmark = pytest.mark.convert

_TOWER = {"hidden_size": 144, "intermediate_size": 272, "num_hidden_layers": 2, "num_attention_heads": 2}
_LANGUAGE = {
    "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 576,
}  # fmt: skip
_QUESTION = "Describe the picture."


@pytest.fixture
def bundle_of(tmp_path, convert_to):
    """bundle_of(name) -> the directory of a small checkpoint, and of the bundle that it becomes."""
    import tokenizers_made
    from seeded_families import FAMILIES, Vocabulary, write_family

    model = tokenizers_made.train(509, tokenizers_made.QWEN2_REGEX)
    vocabulary = Vocabulary(list(model["vocab"]), [" ".join(merge) for merge in model["merges"]])

    def make(name: str) -> tuple[Path, Path]:
        write_family(tmp_path / name, FAMILIES[name], vocabulary, tower=_TOWER, language=_LANGUAGE)
        return tmp_path / name, convert_to(tmp_path / name, quant="F32")

    return make


def _positions_of_transformers(checkpoint: Path, photo: Path, max_tiles: int | None = None) -> float:
    import torch
    from peers.transformers_peer import TransformersPeer

    peer = TransformersPeer(checkpoint, torch.get_num_threads(), "float32", None, max_tiles)
    return peer.ask(str(photo), _QUESTION, 2, lambda: None)["prompt_tokens"]


def _positions_of_ours(bundle: Path, photo: Path, max_tiles: int | None = None) -> float:
    with load(bundle, EngineOptions(DecoderOptions(n_threads=1), max_tiles=max_tiles)) as model:
        session = model.session(SamplingOptions(max_new_tokens=1))
        list(session.ask(_QUESTION, image=photo))
        assert session.timings is not None
        return session.timings.prefill_tokens + session.timings.cached_tokens


def test_interleave(bundle_of, photo):
    checkpoint, bundle = bundle_of("interleave-0.5b")
    n_positions = _positions_of_transformers(checkpoint, photo)
    assert n_positions > 729
    assert _positions_of_ours(bundle, photo) == n_positions


def test_onevision_with_and_without_a_limit(bundle_of, photo):
    checkpoint, bundle = bundle_of("onevision-0.5b")
    n_positions, n_limited = (_positions_of_transformers(checkpoint, photo, limit) for limit in (None, 3))
    assert n_positions > 2929 > n_limited > 729
    assert _positions_of_ours(bundle, photo) == n_positions
    assert _positions_of_ours(bundle, photo, 3) == n_limited
