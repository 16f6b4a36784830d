"""A KV cache that begins small and grows: what is computed does not depend on it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edge_llava import SamplingOptions
from edge_llava.bundle.bundle import Bundle
from edge_llava.errors import BackendError, EdgeLlavaError
from edge_llava.runtime.engine import kv_size
from edge_llava.runtime.engine.kv_size import first_positions
from edge_llava.runtime.kv.sequences import KvSequences
from edge_llava.runtime.language.decoder import Decoder, TokenChunk
from edge_llava.runtime.options import DecoderOptions, EngineOptions

SMALL = {"n_batch": 128}  # a cache is never smaller than a batch
LONG = SamplingOptions(temperature=0, max_new_tokens=600, logit_bias=((2, -100.0),))  # its end never comes


@pytest.fixture
def begins_small(monkeypatch):
    """Caches begin with 256 positions."""
    monkeypatch.setattr(kv_size, "_WORDS", 0)


@pytest.fixture
def answer(noise):
    def run(model, seed=0, question="What?"):
        return [token.id for token in model.session(LONG).ask(question, image=noise(60, 40, seed))]

    return run


@pytest.fixture
def expected(open_engine, seeded_f32, answer, monkeypatch):
    """Three answers of a cache that has its whole size from the start."""
    with monkeypatch.context() as patch:
        patch.setattr(kv_size, "_WORDS", 10_000)
        model = open_engine(seeded_f32, SMALL, parallel=1)
    assert sizes_of(model) == (1024, 1024)
    return [answer(model, seed) for seed in range(3)]


def sizes_of(model):
    sequences = model.engine.language.sequences
    return sequences.n_cells, sequences.n_cells_max


def test_a_long_answer_is_the_same(open_engine, seeded_f32, answer, expected, begins_small, monkeypatch):
    moved, put = [], KvSequences._set
    monkeypatch.setattr(KvSequences, "_set", lambda *given: moved.append(put(*given)) or moved[-1])
    model = open_engine(seeded_f32, SMALL, parallel=1)
    assert sizes_of(model) == (256, 1024)
    assert len(expected[0]) == 600
    assert answer(model) == expected[0]
    assert sizes_of(model) == (1024, 1024)
    assert moved == [True, True]  # to 512, to 1024; nothing was computed again
    assert model.metrics.kv_positions_max == 1024
    assert answer(model, 1) == expected[1]  # and what was there before is found again
    assert answer(model, 0) == expected[0]
    assert model.metrics.preempted_total == 0


@pytest.mark.parametrize("host_bytes", [0, 1 << 24])
def test_several_that_begin_alike(open_engine, seeded_f32, answer, expected, begins_small, ask, noise, host_bytes):
    model = open_engine(seeded_f32, SMALL, parallel=3, host_bytes=host_bytes)
    asked = [ask(model, "What?", LONG, noise(60, 40, seed)) for seed in (0, 0, 1)]
    for one, wanted in zip(asked, (expected[0], expected[0], expected[1]), strict=True):
        assert one.wait().ids == wanted
    assert sizes_of(model)[0] > 1024


@pytest.fixture
def open_decoder(seeded_f32):
    decoders = []

    def call(**sizes):
        bundle = Bundle.open(seeded_f32)
        options = DecoderOptions(n_ctx=1024, n_threads=1, n_batch=128)
        decoders.append(Decoder(bundle.file("language"), bundle.manifest.language, options, **sizes))
        return decoders[-1]

    yield call
    for decoder in decoders:
        decoder.close()


def compute(decoder, wanted):
    """Logits after the last of these tokens, and the sequence that holds them."""
    sequence = decoder.sequences.claim(wanted)
    ids = wanted[len(sequence.positions) :]
    decoder.decode_tokens([TokenChunk(sequence, ids, is_last=True)])
    return decoder.logits(), sequence


def test_what_is_shared_still_is_when_it_has_moved(open_decoder):
    decoder = open_decoder(n_parallel=4, n_first=256)
    sequences, beginning = decoder.sequences, list(range(10, 70))
    conversations = [[*beginning, 100 + n, *range(200, 205 + n)] for n in range(4)]
    conversations.append([*conversations[1], 300, 301])
    held = [compute(decoder, wanted)[1] for wanted in conversations]
    n_used = sequences.n_used
    assert n_used == 60 + sum(len(wanted) - 60 for wanted in conversations[:4]) + 2
    sequences.make_room(600)
    assert sequences.n_cells > 256
    assert sequences.n_used == n_used
    expected = open_decoder()
    for sequence, wanted in zip(held, conversations, strict=True):
        assert sequence.positions == wanted
        decoder.decode_tokens([TokenChunk(sequence, [50], is_last=True)])
        logits, other = compute(expected, [*wanted, 50])
        np.testing.assert_allclose(decoder.logits(), logits, atol=1e-4)
        expected.sequences.release(other)
    for sequence in held:
        sequences.truncate(sequence, 0)
    assert sequences.n_used == 0


def test_many_questions_about_an_image_that_is_computed_once(open_engine, seeded_f32, begins_small, ask, noise):
    """If each had the image for itself once the cache has grown, there would not be room for all."""
    image, options = noise(60, 40), SamplingOptions(temperature=0, max_new_tokens=2)
    model = open_engine(seeded_f32, SMALL, parallel=16, n_positions=1024, n_queued=32, host_bytes=0)
    asked = [ask(model, f"Is there anything that {n} people could see?", options, image) for n in range(32)]
    n_computed = [one.wait().answer.timings().prefill_tokens for one in asked]
    assert sizes_of(model)[0] > 256
    assert sum(n >= 64 for n in n_computed) == 1


def test_nothing_is_wrong_where_it_cannot_grow(
    open_engine, seeded_f32, answer, expected, begins_small, ask, noise, monkeypatch
):
    """What was shared is not any more after the attempt, and those that lose their place are computed again."""
    model, opened = open_engine(seeded_f32, SMALL, parallel=3, host_bytes=0), Decoder._open_context
    monkeypatch.setattr(Decoder, "_open_context", lambda self, n_cells: n_cells <= 256 and opened(self, n_cells))
    short = replace(LONG, max_new_tokens=100)
    asked = [ask(model, "What?", short, noise(60, 40, 0)) for _ in range(3)]
    for one in asked:
        assert one.wait().ids == expected[0][:100]
    assert sizes_of(model) == (256, 256)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # it is reported, too
def test_a_context_that_is_lost_ends_the_engine_and_not_the_process(
    open_engine, seeded_f32, begins_small, ask, noise, monkeypatch
):
    model = open_engine(seeded_f32, SMALL, parallel=1)
    session = model.session(LONG)
    monkeypatch.setattr(Decoder, "_open_context", lambda self, n_cells: False)
    with pytest.raises(BackendError, match="cannot make its context again"):
        for _ in session.ask("What?", image=noise(60, 40)):
            pass
    model.engine._thread.join(30)
    assert not model.is_open
    with pytest.raises(EdgeLlavaError):
        next(session.ask("And?"))


def test_what_it_begins_with(seeded_f32):
    manifest = Bundle.open(seeded_f32).manifest
    assert first_positions(manifest, EngineOptions()) == 64 + 448
    assert first_positions(manifest, EngineOptions(visual_tokens=10)) == 10 + 448
    tiled = replace(manifest, vision=replace(manifest.vision, aspect="anyres", merge="spatial_unpad",
                                             grid_pinpoints=((112, 112),), has_newline=False))  # fmt: skip
    assert first_positions(tiled, EngineOptions()) > 3 * 64 + 448


@pytest.mark.parametrize("is_back", [True, False])
def test_where_there_is_no_memory_for_more(seeded_f32, monkeypatch, is_back):
    bundle, opened = Bundle.open(seeded_f32), Decoder._open_context
    options = DecoderOptions(n_ctx=1024, n_threads=1, n_batch=128)
    decoder = Decoder(bundle.file("language"), bundle.manifest.language, options, n_first=256)
    sequence = decoder.sequences.claim([1, 2, 3])
    decoder.sequences.extend(sequence, [])

    def open_little(self, n_cells):
        return is_back and n_cells <= 256 and opened(self, n_cells)

    monkeypatch.setattr(Decoder, "_open_context", open_little)
    if is_back:
        assert not decoder.sequences.make_room(300)
        assert decoder.sequences.n_cells == decoder.sequences.n_cells_max == 256
        assert decoder.sequences.make_room(200)
    else:
        with pytest.raises(BackendError, match="cannot make its context again"):
            decoder.sequences.make_room(300)
    decoder.close()
