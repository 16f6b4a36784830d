from __future__ import annotations

import dataclasses
import threading
import time
from contextlib import suppress

import numpy as np
import pytest

from edge_llava.bundle.bundle import Bundle
from edge_llava.errors import BundleError
from edge_llava.ggml.gguf_header import read_gguf_header
from edge_llava.parity.one_sequence import OneSequence
from edge_llava.runtime.language.decoder import Decoder, NoCells, RowChunk, TokenChunk
from edge_llava.runtime.lifetime.cancel import Cancelled
from edge_llava.runtime.options import DecoderOptions
from edge_llava.runtime.options import n_ctx as context_of

pytestmark = pytest.mark.convert
TOKENS = [1, *np.random.default_rng(0).integers(259, 512, 99).tolist()]


@pytest.fixture
def open_decoder(seeded_f32):
    bundle, opened = Bundle.open(seeded_f32), []

    def run(**options):
        options = {"n_threads": 1} | options
        opened.append(Decoder(bundle.file("language"), bundle.manifest.language, DecoderOptions(**options)))
        return opened[-1]

    yield run
    for decoder in opened:
        decoder.close()
        decoder.close()


@pytest.fixture
def decoder(open_decoder):
    return open_decoder()


@pytest.fixture
def open_one(open_decoder):
    """open_one(**DecoderOptions fields) -> an empty sequence of a decoder of its own."""
    return lambda **options: OneSequence(open_decoder(**options))


@pytest.fixture(scope="module")
def token_rows(seeded_f32):
    """float32 (n_vocab, n_embd): what the model looks up for each token."""
    path = seeded_f32 / "language.gguf"
    tensors = read_gguf_header(path).tensors
    data_bytes = max(tensor.offset + tensor.n_bytes for tensor in tensors.values())
    start = path.stat().st_size - data_bytes + tensors["token_embd.weight"].offset
    return np.frombuffer(path.read_bytes(), np.float32, 512 * 64, start).reshape(512, 64)


def test_context_length(open_decoder):
    assert open_decoder().n_ctx == 1024  # trained
    assert open_decoder(n_ctx=512).n_ctx == 512


def test_text_round_trip(decoder):
    for text in ("What is shown?", "größe 日本 😀", "  two spaces", "line\nbreak", ""):
        ids = decoder.tokenize(text, add_bos=False)
        assert b"".join(map(decoder.piece, ids)).decode() == (" " + text if text else "")
        assert decoder.tokenize(text, add_bos=True) == [1, *ids]


def test_special_tokens(decoder):
    ids = decoder.tokenize("a</s>b", add_bos=False)
    assert ids.count(2) == 1
    assert [decoder.piece(token) for token in (1, 2)] == [b"", b""]
    assert [decoder.is_end(token) for token in (0, 1, 2, 300)] == [False, False, True, False]


@pytest.mark.parametrize("n_batch", [32, 33, 64])
def test_small_batches_give_the_same_logits(n_batch, open_one, token_rows):
    whole, parts = open_one(), open_one(n_batch=n_batch)
    for decoder in (whole, parts):
        decoder.prefill_tokens(TOKENS[:40])
        decoder.prefill_rows(token_rows[TOKENS])
        decoder.prefill_tokens(TOKENS[:70])
    assert whole.n_past == parts.n_past == 210
    assert np.abs(whole.logits() - parts.logits()).max() < 1e-3
    assert np.ptp(whole.logits()) > 1


def test_rows_of_tokens_are_the_tokens(open_one, token_rows):
    by_id, by_row = open_one(), open_one()
    by_id.prefill_tokens(TOKENS)
    by_row.prefill_rows(token_rows[TOKENS[:-1]])
    by_row.prefill_tokens(TOKENS[-1:])
    assert np.abs(by_id.logits() - by_row.logits()).max() < 1e-4


def test_decode_is_prefill_of_one(open_one):
    at_once, one_by_one = open_one(), open_one()
    at_once.prefill_tokens(TOKENS[:20])
    one_by_one.prefill_tokens(TOKENS[:10])
    for token in TOKENS[10:20]:
        one_by_one.decode(token)
    assert one_by_one.n_past == 20
    assert np.abs(at_once.logits() - one_by_one.logits()).max() < 1e-3


@pytest.mark.parametrize(
    ("wanted", "n_kept"),
    [
        ([*TOKENS[:20], 7], 20),
        (TOKENS[:20], 19),  # the last is computed again, for its logits
        (TOKENS[:5] + [7] * 30, 5),
        ([7] * 3, 0),
        (TOKENS[:1], 0),
        ([*TOKENS[:4], ("key", 4), 7], 4),
    ],
)
def test_common_prefix(wanted, n_kept, decoder):
    sequences = decoder.sequences
    held = sequences.claim(TOKENS, owner=1)
    decoder.decode_tokens([TokenChunk(held, TOKENS[:20], is_last=True)])
    sequences.release(held)
    assert sequences.count_known(wanted) == n_kept
    again = sequences.claim(wanted, owner=1)
    assert again is held
    assert again.positions == wanted[:n_kept]


def test_kept_prefix_gives_the_same_logits(open_decoder, token_rows):
    fresh, reused = open_decoder(), open_decoder()
    image = [("a", row) for row in range(8)]
    wanted = [*TOKENS[:6], *image, 5]

    def compute(decoder, positions):
        """Gives the sequence, and how many positions it had."""
        sequence = decoder.sequences.claim([*positions, 7], owner=1)
        n_known = len(sequence.positions)
        for position in positions[n_known:]:
            if isinstance(position, int):
                decoder.decode_tokens([TokenChunk(sequence, [position], is_last=True)])
            else:
                decoder.decode_rows([RowChunk(sequence, token_rows[300 + position[1]][None], *position)])
        assert sequence.positions == positions
        decoder.sequences.release(sequence)
        return n_known

    compute(reused, [*TOKENS[:6], *image, *TOKENS[20:60]])
    assert compute(reused, [*TOKENS[:6], *image[:3], ("b", 3), 5]) == 9
    assert compute(reused, wanted) == 9
    assert compute(reused, wanted + TOKENS[:9]) == 15
    assert compute(fresh, wanted + TOKENS[:9]) == 0
    assert np.abs(fresh.logits() - reused.logits()).max() < 1e-3


def stopping(decoder, seconds):
    """Stops a decoder in the middle of its work, from another thread."""
    timer = threading.Timer(seconds, decoder.abort.set)
    timer.start()
    return timer


def test_a_stopped_prefill_keeps_whole_batches(open_one):
    one, whole = open_one(n_batch=32), open_one()
    started = time.perf_counter()
    whole.prefill_tokens(TOKENS)
    seconds = time.perf_counter() - started
    for part in (0.2, 0.5, 0.8):
        one.truncate(0)
        timer = stopping(one.decoder, part * seconds)
        with suppress(Cancelled):
            one.prefill_tokens(TOKENS)
        timer.join()
        one.decoder.abort.clear()
        assert one.n_past in {0, 32, 64, 96, 100}
        if one.n_past < 100:
            one.prefill_tokens(TOKENS[one.n_past :])
        assert np.abs(one.logits() - whole.logits()).max() < 1e-3


def test_a_stop_is_seen_inside_a_batch(open_one):
    """One graph of a large model takes seconds."""
    one = open_one(n_batch=1024)
    long = TOKENS[:1] + TOKENS[1:] * 10
    for _ in range(20):
        one.truncate(0)
        timer = stopping(one.decoder, 0.002)
        with suppress(Cancelled):
            one.prefill_tokens(long)
        timer.join()
        one.decoder.abort.clear()
        if one.n_past == 0:
            break
    assert one.n_past == 0  # it was computing, and nothing of it stayed
    one.prefill_tokens(long[:50])
    assert one.n_past == 50


@pytest.mark.parametrize("n_rows", [0, 32, 64])
def test_a_stopped_image(open_one, token_rows, n_rows):
    one, whole = open_one(n_batch=32), open_one()
    whole.prefill_rows(token_rows[:90])
    one.prefill_rows(token_rows[:n_rows])
    one.decoder.abort.set()
    with pytest.raises(Cancelled):
        one.prefill_rows(token_rows[n_rows:90])
    assert one.n_past == n_rows
    one.decoder.abort.clear()
    one.prefill_rows(token_rows[n_rows:90])
    for each in (one, whole):
        each.decode(7)
    assert np.abs(one.logits() - whole.logits()).max() < 1e-3


def test_more_than_the_context_holds(open_one):
    one = open_one(n_ctx=256)
    with pytest.raises(NoCells):
        one.prefill_tokens(TOKENS * 3)
    one.truncate(0)
    one.prefill_tokens(TOKENS)
    assert one.n_past == 100


@pytest.mark.parametrize("kv_type", ["f16", "f32"])
def test_kv_types_agree(kv_type, open_one):
    exact, other = open_one(), open_one(kv_type=kv_type)
    for decoder in (exact, other):
        decoder.prefill_tokens(TOKENS)
    difference = np.abs(exact.logits() - other.logits()).max()
    assert difference == 0 if kv_type == "f32" else 0 < difference < 0.1


def test_truncated_file(seeded_f32, tmp_path):
    bundle, path = Bundle.open(seeded_f32), tmp_path / "language.gguf"
    path.write_bytes(bundle.file("language").read_bytes()[:-1000])
    with pytest.raises(BundleError, match="it is truncated"):
        Decoder(path, bundle.manifest.language, DecoderOptions())


def test_file_that_is_not_the_manifests(seeded_f32):
    bundle = Bundle.open(seeded_f32)
    with pytest.raises(BundleError, match="does not match its manifest"):
        Decoder(bundle.file("language"), dataclasses.replace(bundle.manifest.language, n_layer=5), DecoderOptions())


def test_options_out_of_range_are_refused_all_at_once():
    with pytest.raises(
        ValueError, match="n_ctx must be from 1 to 1048576; n_batch must be from 1 to 1048576; kv_type must be"
    ):
        DecoderOptions(n_ctx=0, n_batch=0, kv_type="q4")


@pytest.mark.parametrize(("trained", "n_ctx"), [(1024, 1024), (4096, 4096), (32768, 4096), (131072, 4096)])
def test_the_context_takes_little_memory_unless_more_is_asked_for(seeded_q4, trained, n_ctx):
    spec = dataclasses.replace(Bundle.open(seeded_q4).manifest.language, n_ctx_train=trained)
    assert context_of(spec, DecoderOptions()) == n_ctx
    assert context_of(spec, DecoderOptions(n_ctx=trained)) == trained


@pytest.mark.parametrize("n_ctx", [16, 40, 300])
def test_the_context_is_what_was_asked_for(seeded_q4, n_ctx):
    """llama.cpp rounds it up to 256 after cutting the batch; a prompt in between must not reach llama_decode."""
    bundle = Bundle.open(seeded_q4)
    decoder = Decoder(bundle.file("language"), bundle.manifest.language, DecoderOptions(n_ctx=n_ctx, n_threads=1))
    assert decoder.n_ctx == n_ctx
    one = OneSequence(decoder)
    one.prefill_tokens([1] + [300] * (n_ctx - 1))
    assert one.n_past == n_ctx
    decoder.close()


def test_a_new_context_on_the_same_weights(open_decoder):
    fresh, reused = open_decoder(n_ctx=256, n_batch=32), open_decoder(n_ctx=512)
    OneSequence(reused).prefill_tokens(TOKENS)
    reused.reconfigure(DecoderOptions(n_ctx=256, n_batch=32, n_threads=1))
    assert (reused.sequences.n_used, reused.n_ctx) == (0, 256)
    for decoder in (fresh, reused):
        OneSequence(decoder).prefill_tokens(TOKENS[:50])
    assert np.array_equal(fresh.logits(), reused.logits())


def test_half_the_cache_is_nearly_as_exact(open_one):
    exact, small = open_one(), open_one(kv_type="q8_0")
    for decoder in (exact, small):
        decoder.prefill_tokens(TOKENS)
    ours, reference = small.logits(), exact.logits()
    assert 0 < np.abs(ours - reference).max() < 0.1 * np.ptp(reference)


def test_a_small_cache_needs_flash_attention():
    with pytest.raises(ValueError, match="needs flash attention"):
        DecoderOptions(kv_type="q8_0", flash_attention=False)
