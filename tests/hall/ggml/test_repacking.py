"""Whether weights are rearranged where the user does not say it."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

import llama_cpp
import pytest

from edge_llava.bundle.bundle import Bundle
from edge_llava.ggml import repacking
from edge_llava.ggml.gguf_header import GgufTensor, read_gguf_header
from edge_llava.ggml.repacking import is_repacking_worthwhile, rearranged_weights, repacked_bytes
from edge_llava.ggml.types import GgmlType
from edge_llava.runtime.language import llama_params
from edge_llava.runtime.language.decoder import Decoder
from edge_llava.runtime.language.llama_params import model_params
from edge_llava.runtime.options import DecoderOptions

ARM, AVX2, AVX512, OTHER = ("dotprod",), ("avx2",), ("avx2", "avx512"), ()
AMX = (*AVX512, "amx")


def weights(**rows: int) -> Mapping[str, GgufTensor]:
    """A file with a matrix of so many rows of each type, and an embedding, which is never rearranged."""
    shapes = {f"blk.0.{name}.weight": (256, n, GgmlType[name]) for name, n in rows.items()}
    shapes["token_embd.weight"] = (256, 4096, GgmlType.Q4_K)
    return {name: GgufTensor((width, n), type_, 0) for name, (width, n, type_) in shapes.items()}


def pretend_processor(monkeypatch, instructions):
    """One with these instructions, and a build of llama.cpp with all of its layouts."""
    monkeypatch.setattr(repacking, "_has", lambda name: name in instructions)
    monkeypatch.setattr(repacking, "can_use_amx", lambda: "amx" in instructions)
    monkeypatch.setattr(repacking, "find_weight_buffers", lambda: {"AMX": 1, "CPU_REPACK": 2})


@pytest.mark.parametrize(
    ("instructions", "rows", "expected"),
    [
        (AVX2, {"Q4_K": 512, "Q6_K": 128}, False),
        (AVX512, {"Q2_K": 512, "Q4_K": 64}, False),
        (AVX2, {"Q4_0": 512, "Q6_K": 128}, True),
        (AVX2, {"IQ4_NL": 512}, True),
        (AVX2, {"Q4_0": 512, "Q4_K": 128}, True),
        (AVX2, {"Q4_0": 128, "Q4_K": 512}, False),
        (ARM, {"Q4_K": 512, "Q6_K": 128}, True),
        (ARM, {"Q8_0": 512}, True),
        (AMX, {"Q4_K": 512, "Q6_K": 128}, True),
        (AMX, {"Q4_K": 72, "Q2_K": 512}, False),
    ],
)
def test_where_an_image_is_not_slower_for_it(monkeypatch, instructions, rows, expected):
    pretend_processor(monkeypatch, instructions)
    assert is_repacking_worthwhile(weights(**rows)) is expected


@pytest.mark.parametrize(
    ("instructions", "rows", "expected"),
    [
        (AVX2, {"Q4_K": 512, "Q6_K": 128}, True),
        (AMX, {"Q4_K": 512, "Q6_K": 128}, True),
        (AVX2, {"Q4_K": 512, "Q6_K": 4096}, False),
        (OTHER, {"Q4_K": 512}, False),
    ],
)
def test_what_is_mostly_rearranged_is_read_and_not_mapped(monkeypatch, instructions, rows, expected):
    pretend_processor(monkeypatch, instructions)
    monkeypatch.setattr(llama_params, "buffer_overrides", lambda buffers: ctypes.c_void_p())  # AMX may not be there
    tensors = {name: tensor for name, tensor in weights(**rows).items() if name != "token_embd.weight"}
    params = model_params(DecoderOptions(repack=True), (), tensors)
    assert (params.load_mode == llama_cpp.LLAMA_LOAD_MODE_NONE) is expected
    assert model_params(DecoderOptions(repack=False), (), tensors).load_mode != llama_cpp.LLAMA_LOAD_MODE_NONE


@pytest.mark.parametrize("present", [{}, {"AMX": 1}, {"CPU_REPACK": 2}])
def test_only_buffers_that_are_there_are_named(monkeypatch, present):
    """A build may lack one, and a sandbox may forbid AMX where it worked before."""
    pretend_processor(monkeypatch, AMX)
    monkeypatch.setattr(repacking, "find_weight_buffers", lambda: present)
    assert set(rearranged_weights(weights(Q4_K=512, Q2_K=64)).values()) == present.keys()


def test_what_cannot_be_rearranged_takes_no_memory(monkeypatch):
    pretend_processor(monkeypatch, OTHER)
    assert repacked_bytes(weights(Q4_K=512, Q4_0=512)) == 0


@pytest.mark.parametrize("repack", [None, True, False])
def test_a_decoder_does_what_is_said(seeded_q4, monkeypatch, repack):
    bundle = Bundle.open(seeded_q4)
    tensors = read_gguf_header(bundle.file("language")).tensors
    for is_worthwhile in (True, False):
        monkeypatch.setattr(llama_params, "is_repacking_worthwhile", lambda given, said=is_worthwhile: said)
        wanted = is_worthwhile if repack is None else repack
        assert llama_params.will_repack(DecoderOptions(repack=repack), tensors, on_cpu=True) is wanted
        path, options = bundle.file("language"), DecoderOptions(n_ctx=64, n_threads=1, repack=repack)
        decoder = Decoder(path, bundle.manifest.language, options)
        assert decoder.settings["repack"] == wanted
        decoder.close()
