from __future__ import annotations

import dataclasses

import pytest

from edge_llava.bundle.bundle import Bundle
from edge_llava.bundle.language_file import check_language_file
from edge_llava.errors import BundleError

pytestmark = pytest.mark.convert


def test_both_demos_match(seeded_f32, seeded_q4):
    for path in (seeded_f32, seeded_q4):
        bundle = Bundle.open(path)
        check_language_file(bundle.file("language"), bundle.manifest.language)


def test_all_faults_at_once(seeded_f32):
    bundle = Bundle.open(seeded_f32)
    path, spec = bundle.file("language"), bundle.manifest.language
    wrong = dataclasses.replace(spec, n_embd=512, n_layer=3, n_head=8, n_head_kv=2, n_vocab=600, bos=3, eos=4)
    with pytest.raises(BundleError) as caught:
        check_language_file(path, wrong)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{path} does not match its manifest:"
    assert lines[-1] == "Convert the checkpoint again."
    parts = ("attn_norm", "ffn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    assert {
        "  - llama.block_count is 2, expected 3",
        "  - llama.embedding_length is 64, expected 512",
        "  - llama.attention.head_count is 2, expected 8",
        "  - llama.attention.head_count_kv is 1, expected 2",
        "  - tokenizer.ggml.bos_token_id is 1, expected 3",
        "  - tokenizer.ggml.eos_token_id is 2, expected 4",
        "  - tokenizer.ggml.tokens has 512 items, expected 600",
        "  - tokenizer.ggml.scores has 512 items, expected 600",
        "  - tokenizer.ggml.token_type has 512 items, expected 600",
        "  - tensor token_embd.weight has shape (64, 512), expected (512, 600)",
        *(f"  - tensor blk.2.{part}.weight is missing" for part in parts),
    } <= set(lines)


def test_another_gguf(seeded_f32):
    bundle = Bundle.open(seeded_f32)
    with pytest.raises(BundleError) as caught:
        check_language_file(bundle.file("projector"), bundle.manifest.language)
    faults = str(caught.value).splitlines()
    assert "  - general.architecture is 'clip', expected 'llama'" in faults
    assert "  - llama.block_count is None, expected 2" in faults
    assert "  - tokenizer.ggml.tokens has 0 items, expected 512" in faults
    assert "  - tensor output_norm.weight is missing" in faults


@pytest.mark.parametrize("content", [b"", b"GGUF", b"\0" * 200])
def test_no_gguf(content, seeded_f32, tmp_path):
    path = tmp_path / "language.gguf"
    path.write_bytes(content)
    with pytest.raises(BundleError, match="is not a usable GGUF file"):
        check_language_file(path, Bundle.open(seeded_f32).manifest.language)


def test_missing_file(seeded_f32, tmp_path):
    with pytest.raises(BundleError, match="cannot be read: No such file"):
        check_language_file(tmp_path / "none", Bundle.open(seeded_f32).manifest.language)
