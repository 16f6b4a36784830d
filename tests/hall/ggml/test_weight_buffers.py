"""The patterns that tell llama.cpp where weights go, and where they end up."""

from __future__ import annotations

import re

import numpy as np
import pytest

from edge_llava import demo
from edge_llava.bundle.bundle import Bundle
from edge_llava.ggml import repacking, weight_buffers
from edge_llava.ggml.amx import can_use_amx
from edge_llava.ggml.gguf_header import read_gguf_header
from edge_llava.parity.one_sequence import OneSequence
from edge_llava.runtime.language import llama_params
from edge_llava.runtime.language.decoder import Decoder
from edge_llava.runtime.language.llama_log import heard_messages
from edge_llava.runtime.options import DecoderOptions

NAMES = [f"blk.{n}.{kind}.weight" for n in (1, 2, 11, 12) for kind in ("attn_v", "attn_v_norm", "ffn_up")]
NAMES += ["output.weight", "token_embd.weight", "output_norm.weight"]


@pytest.mark.parametrize(
    "chosen",
    [
        ["blk.1.attn_v.weight"],
        ["blk.1.attn_v.weight", "blk.1.ffn_up.weight", "blk.2.ffn_up.weight", "output.weight"],
        ["output.weight"],
        NAMES,
    ],
)
def test_a_pattern_finds_what_was_named_and_nothing_else(chosen):
    pattern = weight_buffers._pattern(chosen)
    assert [name for name in NAMES if re.search(pattern, name)] == sorted(chosen, key=NAMES.index)


def test_a_pattern_is_short():
    every = [f"blk.{n}.{kind}.weight" for n in range(80) for kind in ("attn_q", "attn_k", "attn_v", "ffn_up")]
    assert len(weight_buffers._pattern(every)) < 400


@pytest.fixture
def places(monkeypatch):
    """Has the buffers be named, as in a build with AMX."""
    if not weight_buffers.find_weight_buffers():
        pytest.skip("this build of llama.cpp rearranges nothing")
    monkeypatch.setattr(llama_params, "has_amx", lambda: True)
    return monkeypatch


@pytest.mark.parametrize("with_amx", [False, True])
def test_weights_lie_where_they_are_said_to(places, with_amx):
    if with_amx and not can_use_amx():
        pytest.skip("AMX does not work here")
    places.setattr(repacking, "can_use_amx", lambda: with_amx)
    bundle = Bundle.open(demo.BUNDLE)
    path, spec = bundle.file("language"), bundle.manifest.language
    tensors = read_gguf_header(path).tensors
    kinds = set(repacking.rearranged_weights(tensors).values())
    if not kinds:
        pytest.skip("this processor multiplies nothing from another place")
    logits = {}
    for repack in (False, True):
        with heard_messages() as heard:
            decoder = Decoder(path, spec, DecoderOptions(n_ctx=128, n_threads=2, repack=repack))
        sizes = dict(re.findall(r"(AMX|CPU_REPACK) model buffer size = +([\d.]+) MiB", "\n".join(heard)))
        assert sizes.keys() == (kinds if repack else set())
        if repack:
            n_bytes = sum(map(float, sizes.values())) * (1 << 20)
            assert n_bytes == pytest.approx(repacking.repacked_bytes(tensors), abs=1 << 15)
        assert decoder.settings["repack"] == repack
        sequence = OneSequence(decoder)
        sequence.prefill_tokens(list(range(5, 69)))
        logits[repack] = sequence.logits()
        decoder.close()
    error = np.linalg.norm(logits[True] - logits[False]) / np.linalg.norm(logits[False])
    assert error < 0.05
