"""Several sequences in one context: each computes what it would alone, and what they share is the same."""

from __future__ import annotations

import llama_cpp
import numpy as np
import pytest

from edge_llava.bundle.bundle import Bundle
from edge_llava.errors import BackendError
from edge_llava.parity.one_sequence import OneSequence
from edge_llava.runtime.language.decoder import Decoder, NoCells, RowChunk, TokenChunk
from edge_llava.runtime.lifetime.cancel import Cancelled
from edge_llava.runtime.options import DecoderOptions

pytestmark = pytest.mark.convert
RNG = np.random.default_rng(0)
TEXTS = [[1, *RNG.integers(259, 512, n).tolist()] for n in (40, 7, 23)]
ROWS = RNG.standard_normal((30, 64)).astype(np.float32)


@pytest.fixture
def open_batch(seeded_f32):
    bundle, opened = Bundle.open(seeded_f32), []

    def run(n_parallel=3, n_cells=None, host_bytes=1 << 24, **options):
        options = DecoderOptions(**({"n_threads": 1, "n_ctx": 256} | options))
        sizes = {"n_parallel": n_parallel, "n_cells": n_cells, "host_bytes": host_bytes}
        opened.append(Decoder(bundle.file("language"), bundle.manifest.language, options, **sizes))
        return opened[-1]

    yield run
    for decoder in opened:
        decoder.close()
        decoder.close()


@pytest.fixture(scope="module")
def alone(seeded_f32):
    """alone(ids, rows, ids after) -> logits of the last position, of a decoder with one sequence."""
    bundle = Bundle.open(seeded_f32)
    decoder = Decoder(bundle.file("language"), bundle.manifest.language, DecoderOptions(n_threads=1))

    one = OneSequence(decoder)

    def run(ids, rows=None, after=()):
        one.truncate(0)
        one.prefill_tokens(ids)
        if rows is not None:
            one.prefill_rows(rows)
            one.prefill_tokens(after)
        return one.logits()

    yield run
    decoder.close()


def used_cells(decoder):
    """What llama.cpp says that its sequences hold: the set of (sequence, positions)."""
    memory = llama_cpp.llama_get_memory(decoder.context)
    return [llama_cpp.llama_memory_seq_pos_max(memory, n) + 1 for n in range(6)]


def test_several_texts_at_once(open_batch, alone):
    decoder = open_batch()
    sequences = [decoder.sequences.claim(ids) for ids in TEXTS]
    assert len({sequence.id for sequence in sequences}) == 3
    ends = decoder.decode_tokens([TokenChunk(s, ids, True) for s, ids in zip(sequences, TEXTS, strict=True)])
    assert ends == [40, 48, 72]
    for ids, end in zip(TEXTS, ends, strict=True):
        assert np.abs(decoder.logits(end) - alone(ids)).max() < 1e-4
    ends = decoder.decode_tokens([TokenChunk(s, [300 + s.id], True) for s in sequences])
    for sequence, ids, end in zip(sequences, TEXTS, ends, strict=True):
        assert np.abs(decoder.logits(end) - alone([*ids, 300 + sequence.id])).max() < 1e-4
        assert sequence.positions == [*ids, 300 + sequence.id]
    assert decoder.sequences.n_used == sum(map(len, TEXTS)) + 3


def test_a_next_token_with_a_part_of_a_prompt(open_batch, alone):
    decoder = open_batch()
    first, second = (decoder.sequences.claim(ids) for ids in TEXTS[:2])
    decoder.decode_tokens([TokenChunk(first, TEXTS[0], True)])
    decoder.decode_tokens([TokenChunk(first, [300], True), TokenChunk(second, TEXTS[1][:4], False)])
    ends = decoder.decode_tokens([TokenChunk(second, TEXTS[1][4:], True), TokenChunk(first, [301], True)])
    assert np.abs(decoder.logits(ends[0]) - alone(TEXTS[1])).max() < 1e-4
    assert np.abs(decoder.logits(ends[1]) - alone([*TEXTS[0], 300, 301])).max() < 1e-4


def test_rows_of_several_images_at_once(open_batch, alone):
    decoder = open_batch()
    sequences = [decoder.sequences.claim(TEXTS[n]) for n in (1, 2)]
    decoder.decode_tokens([TokenChunk(s, TEXTS[n], False) for s, n in zip(sequences, (1, 2), strict=True)])
    other = ROWS[::-1].copy()
    decoder.decode_rows([RowChunk(sequences[0], ROWS[:20], "k", 0), RowChunk(sequences[1], other[:10], "o", 0)])
    decoder.decode_rows([RowChunk(sequences[1], other[10:], "o", 10), RowChunk(sequences[0], ROWS[20:], "k", 20)])
    assert sequences[0].positions == [*TEXTS[1], *(("k", row) for row in range(30))]
    assert sequences[1].positions == [*TEXTS[2], *(("o", row) for row in range(30))]
    ends = decoder.decode_tokens([TokenChunk(s, [13, 400], True) for s in sequences])
    assert np.abs(decoder.logits(ends[0]) - alone(TEXTS[1], ROWS, [13, 400])).max() < 1e-4
    assert np.abs(decoder.logits(ends[1]) - alone(TEXTS[2], other, [13, 400])).max() < 1e-4


def test_more_than_the_cache_holds(open_batch, alone):
    decoder = open_batch(n_cells=256)
    first, second = decoder.sequences.claim(TEXTS[0]), decoder.sequences.claim(TEXTS[1])
    decoder.decode_tokens([TokenChunk(first, TEXTS[0], True)])
    with pytest.raises(NoCells):
        decoder.decode_tokens([TokenChunk(first, [5], True), TokenChunk(second, [7] * 230, True)])
    assert (len(first.positions), second.positions) == (41, [])
    assert used_cells(decoder)[:2] == [41, 0]
    (end,) = decoder.decode_tokens([TokenChunk(first, [300], True)])
    assert np.abs(decoder.logits(end) - alone([*TEXTS[0], 300])).max() < 1e-4


def test_abort(open_batch, alone):
    decoder = open_batch()
    first, second = decoder.sequences.claim(TEXTS[0]), decoder.sequences.claim(TEXTS[1])
    decoder.decode_tokens([TokenChunk(first, TEXTS[0], True)])
    decoder.abort.set()
    for _ in range(2):
        with pytest.raises(Cancelled):
            decoder.decode_tokens([TokenChunk(first, [5], True), TokenChunk(second, TEXTS[1], True)])
    with pytest.raises(Cancelled):
        decoder.decode_rows([RowChunk(second, ROWS, "k", 0)])
    assert (len(first.positions), second.positions) == (41, [])
    assert used_cells(decoder)[:2] == [41, 0]
    decoder.abort.clear()
    ends = decoder.decode_tokens([TokenChunk(first, [300], True), TokenChunk(second, TEXTS[1], True)])
    assert np.abs(decoder.logits(ends[0]) - alone([*TEXTS[0], 300])).max() < 1e-4
    assert np.abs(decoder.logits(ends[1]) - alone(TEXTS[1])).max() < 1e-4


def test_a_batch_holds_the_next_token_of_every_sequence(open_batch):
    assert open_batch(n_parallel=5, n_batch=2).n_batch == 2 * 5 + 1  # as many are remembered, and one is for copies
    assert open_batch(n_parallel=3, n_batch=64).n_batch == 64


def test_sizes(open_batch):
    decoder = open_batch(n_parallel=3)
    assert (decoder.n_ctx, decoder.sequences.n_cells) == (256, 768)
    assert open_batch(n_cells=300).sequences.n_cells == 300


def test_more_than_llama_cpp_can(open_batch):
    with pytest.raises(
        BackendError, match=r"^llama.cpp cannot make a context for \d+ positions of 200 conversations at a time: ."
    ):
        open_batch(n_parallel=200)
